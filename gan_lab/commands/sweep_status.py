"""How a sweep stands, live; exit status 1 if a run needs a person."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from gan_lab.commands import a_path
from gan_lab.report.progress import QUEUED, Progress, progress, table
from gan_lab.report.runs import find, passed_over
from gan_lab.runs.directory import RUNNING

CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Runs, states, progress, metrics, last sign of life. "
        "Exit status: 0 all is well, 1 a run needs a person, 2 there is no run."
    )
    add = parser.add_argument
    add("outputs", type=a_path, help="the folder that holds the runs")
    add("--once", action="store_true", help="print it once, as where the output is no terminal")
    add("--every", type=float, default=5, metavar="SECONDS", help="between looks (default: 5)")
    given = parser.parse_args(arguments)
    entries, copies = _look(given.outputs)
    if given.once or not sys.stdout.isatty():
        print(table(entries))
    else:
        entries = _watch(given.outputs, entries, max(0.2, given.every))
    if copies:
        print(copies)
    return int(any(entry.needs_person for entry in entries))


def _look(outputs: Path) -> tuple[list[Progress], str]:
    runs, damaged = find(outputs)
    return progress(runs, damaged), passed_over(runs)


def _watch(outputs: Path, entries: list[Progress], seconds: float) -> list[Progress]:
    """Show the table anew until nothing runs any more or Ctrl-C; returns how things stood then."""
    try:
        while True:
            size = shutil.get_terminal_size()
            lines = table(entries, size.lines - 2).splitlines()
            print(CLEAR + "\n".join(line[: size.columns] for line in lines), flush=True)
            if not any(entry.state in (RUNNING, QUEUED) for entry in entries):
                return entries
            time.sleep(seconds)
            entries, _ = _look(outputs)
    except KeyboardInterrupt:
        return entries
