"""The interface of a tracker, and how several are used as one without any of them stopping a run."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told about a run when it starts."""

    directory: Path
    id: str  # the same for the same command, wherever and whenever it runs
    name: str
    config: Mapping[str, Any]
    iteration: int  # the last one that counts; later records are of a lost continuation
    group: str = ""  # the same for all runs that differ by their seed only


class Tracker(Protocol):
    """A sink for what a run measures."""

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Record values, by metric name, after `iteration` iterations."""

    def log_samples(self, iteration: int, grid: Path) -> None:
        """Record a sample grid, a PNG file."""

    def finish(self, state: str) -> None:
        """The run ends in this state; write out everything."""


def display_name(directory: Path, target: str, given: object) -> str:
    """What W&B calls a run: `tracker.name` where W&B's tracker was given one, else the end of its path."""
    is_given = target.endswith(".WandbTracker") and given not in (None, "wandb")
    return str(given) if is_given else "/".join(directory.parts[-4:])


def reason(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Guarded:
    """A tracker that cannot stop a run: at its first failure one warning is given, then it is left alone."""

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        self._try(lambda: setattr(self, "_tracker", start()))

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._tracker = None
            message = "%s failed and is left out from here on: %s. The local record is whole."
            log.warning(message, self._name, reason(error))

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        if self._tracker:
            tracker = self._tracker
            self._try(lambda: tracker.log(iteration, values))

    def log_samples(self, iteration: int, grid: Path) -> None:
        if self._tracker:
            tracker = self._tracker
            self._try(lambda: tracker.log_samples(iteration, grid))

    def finish(self, state: str) -> None:
        if self._tracker:
            tracker = self._tracker
            self._try(lambda: tracker.finish(state))

    def abandon(self) -> None:
        """The process ends at once: where a tracker would wait at its exit, it shall not."""
        if self._tracker:
            self._try(getattr(self._tracker, "abandon", lambda: None))

    @property
    def url(self) -> str:
        """Where the run can be looked at; empty where there is no such place."""
        return str(getattr(self._tracker, "url", None) or "")
