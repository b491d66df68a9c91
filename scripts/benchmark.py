"""Measure this machine: what norms, probes and the program around the steps cost."""

import argparse
import dataclasses
import json
import platform
from pathlib import Path

import torch
from tqdm import tqdm

from gan_lab.benchmark import MEASUREMENTS, Row
from gan_lab.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help=f"which of {', '.join(MEASUREMENTS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark.json"), help="where the rows go")
    parser.add_argument("--compare", type=Path, help="an earlier file of rows, to show what changed")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(MEASUREMENTS):
        parser.error(f"no measurement is called {min(unknown)}: take {', '.join(MEASUREMENTS)}")
    before = (
        {row["name"]: row["value"] for row in json.loads(arguments.compare.read_text())}
        if arguments.compare
        else {}
    )

    rows: list[Row] = []
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in tqdm(arguments.only or MEASUREMENTS, desc="measuring", leave=False, disable=None):
        for row in MEASUREMENTS[name]():
            rows.append(row)
            change = f"   was {before[row.name]:.3f}" if row.name in before else ""
            tqdm.write(f"  {row.name:<28} {row.value:10.3f} {row.unit}{change}")
    write_json(arguments.out, [dataclasses.asdict(row) for row in rows])
    print(f"written to {arguments.out}; compare later with --compare {arguments.out}")


if __name__ == "__main__":
    main()
