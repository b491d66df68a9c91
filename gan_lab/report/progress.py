"""How the runs of a sweep stand: how far they are, whether they live, and which of them need a person."""

import contextlib
import functools
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gan_lab.report.comparison import STEP_TIME, metrics, title
from gan_lab.report.records import last_row
from gan_lab.report.runs import UNKNOWN, Damaged, Run, plain
from gan_lab.report.tables import duration
from gan_lab.runs.directory import DIVERGED, FAILED, FINISHED, INTERRUPTED, RUNNING, RunDirectory
from gan_lab.runs.lock import STALE

DEAD = "dead"  # says that it is running, and gives no sign of life
DAMAGED = "damaged"
QUEUED = "queued"  # waits for Slurm to start it, or to start it again
REFUSED = "refused"  # as its config or the data is wrong
WAITING = "not begun"
AGAIN = "run the same line again, and it resumes"
TO_DO = {
    DEAD: f"its process is gone: {AGAIN}",
    REFUSED: "mend that, and run the same line again",
    WAITING: "run the same line again, and it begins",
    INTERRUPTED: AGAIN,
    FAILED: "see its train.log, mend it, and run the same line again",
    UNKNOWN: f"its status cannot be read: {AGAIN}",
    DAMAGED: "start it over with fresh=true",
}
HEAD = ("run", "state", "iteration", "left", "metrics", "last sign of life", "")
ORDER = (
    DAMAGED,
    REFUSED,
    FAILED,
    DEAD,
    UNKNOWN,
    INTERRUPTED,
    WAITING,
    QUEUED,
    RUNNING,
    DIVERGED,
    FINISHED,
)


@dataclass(frozen=True)
class Progress:
    """How one run stands. `silence` is the seconds since its last sign of life, None where there was none."""

    name: str
    state: str
    iteration: int = 0
    iterations: int = 0
    metrics: str = ""
    silence: float | None = None
    hours_left: float | None = None
    reason: str = ""

    @property
    def needs_person(self) -> bool:
        return self.state in TO_DO

    @property
    def word(self) -> str:
        """Why it stands so, and what to do about it."""
        return "; ".join(part for part in (self.reason, TO_DO.get(self.state, "")) if part)


def progress(runs: Sequence[Run], damaged: Sequence[Damaged]) -> list[Progress]:
    """One entry for each run, those that need a person first."""
    broken = [
        Progress(each.name, DAMAGED, reason=each.reason)
        for each in damaged
        if each.name not in {run.name for run in runs}
    ]
    queue = functools.cache(slurm_queue)  # asked once, and only if a run was a job of Slurm's
    entries = [*broken, *(_of_run(run, queue) for run in runs)]
    return sorted(entries, key=lambda entry: ORDER.index(entry.state))


def _of_run(run: Run, queue: Callable[[], set[str]]) -> Progress:
    directory = run.directory
    row, judged = last_row(directory.metrics), last_row(directory.metrics, b'"metric/')
    silence = _silence(directory)
    state = run.state
    if state == RUNNING and (silence is None or silence >= STALE):
        state = DEAD
    if state in (DEAD, INTERRUPTED):
        job = directory.read_status().get("slurm_job")
        state = QUEUED if job and job in queue() else state
    iteration = row.get("iteration")
    iteration = max(run.iteration, iteration if isinstance(iteration, int) else 0)
    step = row.get(STEP_TIME)
    left = max(0, run.iterations - iteration)
    scores = {title(name): judged[name] for name in metrics(judged) if isinstance(judged[name], (int, float))}
    return Progress(
        run.name,
        state,
        iteration,
        run.iterations,
        plain("  ".join(f"{name} {value:.4g}" for name, value in scores.items())),
        silence,
        left * step / 3.6e6 if state == RUNNING and isinstance(step, (int, float)) else None,
        run.reason,
    )


def slurm_queue() -> set[str]:
    """The ids of this user's Slurm jobs that wait to be started, or started again; none without Slurm."""
    command = ["squeue", "--me", "--array", "--noheader", "--states=PENDING", "--format=%i"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return set()
    return set(answer.stdout.split())


def _silence(directory: RunDirectory) -> float | None:
    """Seconds since the run last gave a sign of life: its lock's heartbeat, a status, a row of metrics."""
    signs = []
    for path in (directory.lock, directory.status, directory.metrics):
        with contextlib.suppress(OSError):
            signs.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(signs)) if signs else None


def table(entries: Sequence[Progress], height: int | None = None) -> str:
    """The entries as text, with a line of totals; with a height, those at the end are left out."""
    counts = {state: sum(entry.state == state for entry in entries) for state in ORDER}
    totals = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    shown = entries if height is None else entries[: max(1, height - 4)]
    rows: list[Sequence[str]] = [HEAD, *map(_row, shown)]
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    if len(shown) < len(entries):
        lines.append(f"… and {len(entries) - len(shown)} more")
    return "\n".join([*lines, "", totals])


def _row(entry: Progress) -> Sequence[str]:
    share = f" ({entry.iteration / entry.iterations:.0%})" if entry.iterations else ""
    return (
        entry.name,
        entry.state,
        f"{entry.iteration:,}{share}" if entry.state != DAMAGED else "–",
        duration(entry.hours_left) if entry.hours_left is not None else "",
        entry.metrics or "–",
        "–" if entry.silence is None else f"{duration(entry.silence / 3600)} ago",
        entry.word,
    )
