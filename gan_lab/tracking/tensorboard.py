"""TensorBoard event files under the run directory."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gan_lab.tracking.base import RunInfo
from gan_lab.tracking.history import History
from gan_lab.tracking.ledger import Event, events


class TensorBoardTracker:
    """Scalars and sample grids as TensorBoard events, in the order of the iterations.

    The local record is the truth: when a run starts, what it holds and the event files lack is written. The
    best FID, IS and KID so far are scalars too, `best/...`.
    """

    def __init__(self, run: RunInfo, mode: str = "offline") -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.directory / "tensorboard"
        self._history = History()
        lost = run.iteration + 1  # from here on, events are of a continuation that a crash lost
        held, wanted = _held(folder), Counter[int]()
        record = [(event, self._scalars(event)) for event in _record(run)]
        for event, scalars in record:
            wanted[event.iteration] += len(scalars) + bool(event.grid)
        first = min([lost, *(step for step, count in wanted.items() if held[step] < count)])
        # TensorBoard hides what was written before of this step and later ones.
        older = _files(folder)
        self._writer = SummaryWriter(str(folder), purge_step=first)
        if older and _files(folder)[-1] == older[-1]:  # of this second, or of a clock that is ahead
            for number, path in enumerate(older):
                path.rename(folder / f"earlier{number:06d}.tfevents")
        for event, scalars in record:
            if event.iteration >= first:
                self._write(event, scalars)
        self._writer.flush()

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        event = Event(iteration, {k: v if math.isfinite(v) else None for k, v in values.items()})
        self._write(event, {**self._scalars(event), **values})
        self._writer.flush()  # else a kill would lose minutes

    def log_samples(self, iteration: int, grid: Path) -> None:
        self._write(Event(iteration, grid=grid), {})
        self._writer.flush()

    def finish(self, state: str) -> None:
        self._writer.close()

    def _scalars(self, event: Event) -> dict[str, float]:
        """What an event holds, and the best so far where it is one of the record's metrics."""
        self._history.add({"iteration": event.iteration, **event.values})
        row = {name: math.nan if value is None else value for name, value in event.values.items()}
        is_judged = any(name.startswith("metric/") for name in row)
        return row | (self._history.best if is_judged else {})

    def _write(self, event: Event, scalars: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import image, scalar

        parts = [scalar(name, value) for name, value in scalars.items()]
        if event.grid:
            name = "samples" if event.iteration else "real"
            with Image.open(event.grid) as picture:
                parts.append(image(name, np.asarray(picture), dataformats="HWC"))
        if parts:  # one event for all, which a kill leaves whole or not at all
            whole = parts[0]
            for part in parts[1:]:
                whole.MergeFrom(part)
            assert self._writer.file_writer
            self._writer.file_writer.add_summary(whole, event.iteration)


def _record(run: RunInfo) -> list[Event]:
    """The local record by iteration, as TensorBoard wants it; real images are iteration 0's."""
    found = list(events(run.directory / "metrics.jsonl", run.directory / "samples", run.iteration))
    real = run.directory / "real.png"
    if real.exists():
        found.insert(0, Event(0, grid=real))
    return sorted(found, key=lambda event: event.iteration)


def _held(folder: Path) -> Counter[int]:
    """By step, how many values the event files in a folder hold and TensorBoard shows."""
    held = Counter[int]()
    for event in _stored(folder):
        if event.HasField("session_log"):
            held = Counter({step: count for step, count in held.items() if step < event.step})
        held[event.step] += len(event.summary.value)
    return held


def _files(folder: Path) -> list[Path]:
    """The event files in a folder in the order in which TensorBoard reads them."""
    return sorted(folder.glob("*tfevents*"))


def _stored(folder: Path) -> Iterator[Any]:
    """The events of a folder's files in TensorBoard's order, but for one that a kill cut off."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for path in _files(folder):
        yield from LegacyEventFileLoader(str(path)).Load()
