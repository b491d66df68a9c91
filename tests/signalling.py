"""What signals its own process: a run is stopped at a line of its record or at a draw, and by no clock."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from gan_lab.tracking.base import RunInfo
from gan_lab.training.gan import Gan, IterationInputs


@contextlib.contextmanager
def stopped_at(*iterations: int) -> Iterator[None]:
    """Inside the block a run gets SIGUSR1 when it draws one of these iterations."""
    draw = Gan.draw

    def draw_and_stop(gan: Gan, iteration: int) -> IterationInputs:
        if iteration in iterations:
            os.kill(os.getpid(), signal.SIGUSR1)
        return draw(gan, iteration)

    with mock.patch.object(Gan, "draw", draw_and_stop):
        yield


class Signalling:
    """Sends SIGTERM when the run of `seed` records `iteration`.

    A tracker is no part of what a run computes: with another one the same command resumes it.
    """

    def __init__(self, run: RunInfo, seed: int, iteration: int, **_: Any) -> None:
        self._at = iteration if run.config["seed"] == seed else None

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        if iteration == self._at:
            os.kill(os.getpid(), signal.SIGTERM)

    def log_samples(self, iteration: int, grid: Path) -> None:
        """They are not waited for."""

    def finish(self, state: str) -> None:
        """There is nothing to write out."""
