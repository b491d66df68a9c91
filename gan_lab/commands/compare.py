"""Runs side by side: a table, and if wanted a page with charts, files of the table, or a W&B report."""

import argparse
import sys
from pathlib import Path

from gan_lab.commands import a_path, add_where, name_damaged
from gan_lab.report.archive import opened
from gan_lab.report.comparison import compare, read_scores
from gan_lab.report.page import render, write
from gan_lab.report.runs import find, find_key, where
from gan_lab.report.tables import as_csv, as_latex, as_markdown, as_text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Runs side by side, from their directories only.")
    add = parser.add_argument
    add("outputs", type=a_path, help="the folder that holds the runs, or their packed records")
    add_where(parser)
    add(
        "--by",
        metavar="KEY[,KEY]",
        help="what makes a group (default: every setting that differs, seeds aside)",
    )
    add("--out", type=a_path, metavar="FILE.html", help="write the page with charts and samples there")
    for form in ("csv", "markdown", "latex"):
        add(f"--{form}", type=a_path, metavar="FILE", help=f"write the table as {form}")
    add(
        "--wandb",
        metavar="[ENTITY/]PROJECT",
        help="write a W&B report with these sections, and a workspace",
    )
    given = parser.parse_args(arguments)
    with opened(given.outputs) as folder:
        return _compare(given, folder)


def _compare(given: argparse.Namespace, folder: Path) -> int:
    """Of the runs in `folder`, whatever was typed for it."""
    runs, damaged = find(folder)
    runs = where(runs, given.where)
    by = [find_key(runs, key) for key in given.by.split(",")] if given.by else None
    if given.out:
        html, found = render(given.outputs, runs, damaged, by)
        write(given.out, html)
    else:
        found, unread = read_scores(runs)
        damaged += unread
    tables = compare(runs, found, by)
    for form, as_form in (("csv", as_csv), ("markdown", as_markdown), ("latex", as_latex)):
        if path := getattr(given, form):
            write(path, as_form(tables))
    print(as_text(tables, bold=sys.stdout.isatty()))
    name_damaged(damaged)
    if given.out:
        print(f"\npage: {given.out}")
    if given.wandb:
        from gan_lab.report.wandb_report import save

        report, workspace = save(given.wandb, runs, tables, by, given.where)
        print(f"W&B report: {report}\nW&B workspace: {workspace}")
    return 0
