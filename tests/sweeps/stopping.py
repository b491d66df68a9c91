"""Trackers by which a test meets a run at an iteration of its choice, however fast the machine is.

`options` are for the command line, `environment` says which runs are met and when. Only a run that starts at
its first iteration is, so that what resumes it is left to train.
"""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HELD = "held"  # the file in its directory that says that a run waits


def options(kind: str) -> list[str]:
    return ["tracker=tensorboard", f"tracker._target_=stopping.{kind}"]


def environment(runs: str, iteration: int) -> dict[str, str]:
    """For the runs whose directories hold one of these words, `sn/seed0 sn/seed1`."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "MEET_RUNS": runs, "MEET_AT": str(iteration)}


class _Meeting:
    def __init__(self, run: Any, **_: Any) -> None:
        is_meant = any(word in str(run.directory) for word in os.environ["MEET_RUNS"].split())
        self._at = int(os.environ["MEET_AT"]) if is_meant and run.iteration == 0 else None
        self._directory = run.directory

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        if iteration == self._at:
            self._at = None  # a second record of the same iteration
            self.meet()

    def meet(self) -> None:
        raise NotImplementedError

    def log_samples(self, iteration: int, grid: Path) -> None: ...

    def finish(self, state: str) -> None: ...


class Kill(_Meeting):
    """The process that trains ends at once."""

    def meet(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hold(_Meeting):
    """The run waits for a signal, which it then handles as it would in any iteration."""

    def meet(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)  # so that a signal is noticed that comes before it is waited for
        (self._directory / HELD).touch()
        while os.read(reading, 1)[0] == signal.SIGCONT:  # which Slurm sends before another
            pass
        signal.set_wakeup_fd(-1)
