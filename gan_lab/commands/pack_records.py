"""Configs, states and metrics of many runs in one small file, which compare and study read like a folder."""

import argparse

from gan_lab.commands import a_path, add_where, name_damaged
from gan_lab.report.archive import opened, pack
from gan_lab.report.runs import find, where


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Configs, states and metrics of many runs in one small file: no checkpoints."
    )
    add = parser.add_argument
    add("outputs", type=a_path, help="the folder that holds the runs")
    add_where(parser)
    add("--out", type=a_path, required=True, metavar="FILE.tar.xz", help="the file to write")
    add("--samples", action="store_true", help="and the last samples of one run of each setting")
    given = parser.parse_args(arguments)
    with opened(given.outputs) as folder:
        runs, damaged = find(folder)
        runs = where(runs, given.where)
        size = pack(runs, given.out, given.samples)
    name_damaged(damaged)
    print(f"{len(runs)} runs in {given.out}, {size / 1e6:.2f} MB")
    return 0
