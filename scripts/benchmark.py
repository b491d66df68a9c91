"""Measure this machine: utilization, norms, probes, data, evaluation, start-up, and the program as a whole.

Without patterns everything but the longest rows is measured, in about a quarter of an hour on two cores.
"""

import argparse
import logging
import platform
import sys
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not installed

from benchmarks import MEASUREMENTS, measure, rows
from gan_lab import terminal
from gan_lab.device import hardware, pick_device
from gan_lab.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="patterns of rows' names, such as 'mfu/cnn32/*'; see --list")
    parser.add_argument(
        "--list", action="store_true", help="print the names of all rows, and measure nothing"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="measure only what has rows on a GPU alone; nothing without one"
    )
    parser.add_argument("--markdown", action="store_true", help="print --out as a table, and measure nothing")
    parser.add_argument("--compare", type=Path, help="an earlier file of rows, to show what changed")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/benchmark.json"),
        help="where rows go; of those that it holds, the ones measured now are replaced",
    )
    arguments = parser.parse_args()
    if arguments.list:
        for measurement in MEASUREMENTS:
            for name in measurement.names:
                print(name)
            for name in measurement.gpu_names:
                print(f"{name}  (on a GPU only)")
    elif arguments.markdown:
        print(rows.markdown(rows.read(arguments.out), _values(arguments.compare)))
    else:
        _measure(arguments.only, arguments.gpu, arguments.out, _values(arguments.compare))


def _values(path: Path | None) -> dict[str, float]:
    return {row.name: row.value for row in rows.read(path)} if path else {}


def _measure(patterns: list[str], gpu: bool, out: Path, before: dict[str, float]) -> None:
    device = pick_device("auto")
    on_gpu = device.type == "cuda"
    if gpu and not on_gpu:
        print("there is no GPU here: none of its rows is measured")
        return
    some = [measurement for measurement in MEASUREMENTS if measurement.gpu_names or not gpu]
    wanted = [measurement for measurement in some if measurement.is_wanted(patterns, on_gpu)]
    if not wanted and any(measurement.is_wanted(patterns, on_gpu=True) for measurement in some):
        raise UserError(f"there is no GPU here for {' or '.join(patterns)}: take other rows of --list")
    if not wanted:
        raise UserError(f"no row is called {' or '.join(patterns)}: take names of --list")
    kept = rows.read(out) if out.exists() else []
    where = hardware(device).get("gpu", platform.machine())
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    logging.basicConfig(format="%(message)s")
    with logging_redirect_tqdm(), tqdm(wanted, desc="measuring", leave=False, disable=None) as bar:
        for measurement in bar:
            bar.set_postfix_str((measurement.names or measurement.gpu_names)[0])
            for row in measure(measurement, patterns):
                kept = rows.merged(kept, [row])
                rows.write(out, kept)  # each: what took minutes stays where a later one fails
                tqdm.write(f"  {rows.line(row, before)}")
    print(f"written to {out}; compare later with --compare {out}, print again with --markdown")


if __name__ == "__main__":
    terminal.run(main)
