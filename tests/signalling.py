"""A tracker that signals its own process: a run is stopped at a line of its record, and by no clock."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_lab.tracking.base import RunInfo


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
