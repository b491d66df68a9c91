"""The end of a sweep: the table of its runs, the comparison page, the next commands and the exit status."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gan_lab import shell
from gan_lab.errors import UserError, one_line
from gan_lab.runs.directory import EXIT_STATUS, FAILED, INTERRUPTED, RUNNING, WRONG_CONFIG
from gan_lab.sweep.record import Launch, Record

if TYPE_CHECKING:
    from gan_lab.report.progress import Progress

STOPPED_STATUS = EXIT_STATUS[INTERRUPTED]


@dataclass
class Sweep:
    """A sweep as it was launched: its folder for this launch, where its runs lie, the overrides of each.

    `jobs` is where submitit keeps its files, whose runs outlive this process; None for other launchers.
    """

    launch: Launch
    outputs: Path
    planned: list[list[str]]
    jobs: Path | None = None

    def close(self, status: int) -> int:
        """Print the table of all runs and what to do next, write the page; returns the worst exit status."""
        from gan_lab.report.progress import table

        if status == WRONG_CONFIG:  # Hydra's word, before the first run or in the middle
            if not self.launch.records():
                return status
            status = EXIT_STATUS[FAILED]
        entries = self._entries()
        lines = ["", table(entries), ""]
        if status != STOPPED_STATUS:
            lines.append(_page(self.outputs))
        lines += [f"next: {command}  # {purpose}" for command, purpose in self._next(entries).items()]
        print(*lines, sep="\n")
        return max([status, *(_exit_status(entry.state) for entry in entries)])

    def _entries(self) -> list["Progress"]:
        from gan_lab.report.progress import ORDER

        records = self.launch.records()
        overrides = dict(enumerate(self.planned)) | {n: record.overrides for n, record in records.items()}
        names = _names(overrides)
        entries = [self._entry(names[number], records.get(number)) for number in sorted(overrides)]
        return sorted(entries, key=lambda entry: ORDER.index(entry.state))

    def _entry(self, name: str, record: Record | None) -> "Progress":
        from gan_lab.report.progress import DEAD, QUEUED, REFUSED, WAITING, Progress, progress
        from gan_lab.report.runs import find

        if record is None:
            return Progress(name, QUEUED if self._is_submitted() else WAITING)
        if record.exit_status == WRONG_CONFIG or record.directory is None:
            return Progress(name, REFUSED, reason=record.reason)
        directory = Path(record.directory)
        try:
            (entry,) = progress(*find(directory))
        except UserError:  # it ended before it wrote anything
            return Progress(name, WAITING)
        if entry.state == RUNNING and not self.jobs:
            entry = dataclasses.replace(entry, state=DEAD)
        inside = directory.is_relative_to(self.outputs)
        return dataclasses.replace(
            entry, name=str(directory.relative_to(self.outputs) if inside else directory)
        )

    def _is_submitted(self) -> bool:
        return self.jobs is not None and any(self.jobs.rglob("*_submitted.pkl"))

    def _next(self, entries: Sequence["Progress"]) -> dict[str, str]:
        """Commands for what is not finished, each with what it is for."""
        from gan_lab.report.progress import QUEUED

        commands = {}
        if any(entry.needs_person for entry in entries):
            typed = [argument for argument in sys.argv[1:] if not argument.startswith("fresh=")]
            commands[shell.command("train", *typed)] = "resumes what is not finished"
        for entry in entries:
            if entry.state == FAILED:
                path = self.outputs / entry.name / "train.log"
                commands[f"less {shlex.quote(str(path))}"] = "why it failed"
        if self.jobs and any(entry.state in (QUEUED, RUNNING) for entry in entries):
            commands["squeue --me"] = "the jobs that Slurm still has; scancel <id> ends one"
        return commands


def _names(overrides: dict[int, list[str]]) -> dict[int, str]:
    """What tells each run from the others on the command line: `norm=sn seed=0`."""
    everywhere = set.intersection(*map(set, overrides.values())) if len(overrides) > 1 else set()
    return {n: " ".join(word for word in words if word not in everywhere) for n, words in overrides.items()}


def _exit_status(state: str) -> int:
    from gan_lab.report.progress import QUEUED, REFUSED, WAITING

    others = {REFUSED: WRONG_CONFIG, **dict.fromkeys((WAITING, QUEUED, RUNNING), STOPPED_STATUS)}
    return (EXIT_STATUS | others).get(state, EXIT_STATUS[FAILED])


def _page(outputs: Path) -> str:
    """Write the comparison of all runs in `outputs`; returns a sentence that says where, or why not."""
    try:
        from gan_lab.report import write_page

        return f"comparison of all runs in {outputs}: {write_page(outputs, outputs / 'report.html')}"
    except Exception as error:  # the runs are what counts
        return f"no comparison page: {one_line(error)}"
