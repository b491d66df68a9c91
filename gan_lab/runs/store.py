"""What one run leaves on the disk and sends to trackers: rank zero writes, and every rank knows."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from gan_lab.distributed.collectives import on_rank_zero
from gan_lab.files import replacing
from gan_lab.images import write_grid
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import DIVERGED, FINISHED, RunDirectory
from gan_lab.runs.lock import RunLock
from gan_lab.tracking import JsonLines, Tracker
from gan_lab.tracking.history import History
from gan_lab.tracking.jsonl import read

log = logging.getLogger(__name__)

GRID, ROW = 100, 10  # samples in a grid, 10×10


class Store:
    """A run's directory while it is trained.

    In this order: `opened`, `load`, `begin`, then what training calls, `finish`.
    """

    def __init__(self, directory: RunDirectory, keep_every: int) -> None:
        self.directory = directory
        self.history = History()  # of what was logged, on rank zero
        self.pending_row: dict[str, float] | None = None  # of an iteration whose evaluation was cut short
        self._keep_every = keep_every  # iterations between checkpoints that stay for good
        self._record: JsonLines
        self._sinks: list[Tracker] = []
        self._facts: dict[str, Any] = {}

    @contextlib.contextmanager
    def opened(self, fresh: bool) -> Iterator[None]:
        """The directory, made or found, for this run only; the log is set up.

        With `fresh` an older run is moved aside. Raises UserError where another process trains here, or where
        nothing can be written.
        """
        with contextlib.ExitStack() as held:
            self._open(held, fresh)
            yield

    @on_rank_zero
    def _open(self, held: contextlib.ExitStack, fresh: bool) -> None:
        if fresh and self.directory.root.exists():
            with RunLock(self.directory.lock):
                self.directory.set_aside()
        self.directory.create()
        held.enter_context(RunLock(self.directory.lock))
        held.enter_context(_logging_to(self.directory.log))

    @on_rank_zero
    def load(self) -> dict[str, Any] | None:
        """The newest whole checkpoint, or None; raises UserError for one of another format."""
        return checkpoint.load_newest(self.directory.checkpoints)

    def begin(
        self,
        config: Mapping[str, Any],
        state: Mapping[str, Any],
        trackers: Callable[[], Sequence[Tracker]],
        real_images: Callable[[], np.ndarray] | None = None,
        **facts: Any,
    ) -> None:
        """Make the directory this run's to change: the record is cut to the state's, trackers start.

        `state` is the checkpoint that training continues from, empty at the start; `real_images` makes those
        of a grid, uint8 `[N, 3, H, W]`, which is written once; `facts` are for every status (`images`, what
        the images are known by, for every checkpoint too).
        """
        self.pending_row = state.get("unrecorded")
        iteration, length = state.get("iteration", 0), state.get("record_length", 0)
        self._begin(config, iteration, length, trackers, real_images, facts)

    @on_rank_zero
    def _begin(
        self,
        config: Mapping[str, Any],
        iteration: int,
        length: int,
        trackers: Callable[[], Sequence[Tracker]],
        real_images: Callable[[], np.ndarray] | None,
        facts: dict[str, Any],
    ) -> None:
        self._facts = facts
        self._record = JsonLines(self.directory.metrics, length, iteration)
        self._sinks = [self._record]
        self.directory.remove_litter()
        self.directory.write_config(dict(config))
        if self._record.length() < length:
            log.warning("lines are missing from %s, and stay so", self.directory.metrics)
        if real_images and not self.directory.real_images.exists():
            write_grid(self.directory.real_images, torch.from_numpy(real_images()))
        for row in read(self.directory.metrics):
            self.history.add(row)
        self._sinks += trackers()
        if url := next(filter(None, (getattr(sink, "url", "") for sink in self._sinks)), ""):
            self._facts = {**facts, "url": url}

    @on_rank_zero
    def log(self, iteration: int, row: Mapping[str, float]) -> None:
        """Record a row of metrics, if it holds any."""
        if not row:
            return
        self.history.add({"iteration": iteration, **row})
        for sink in self._sinks:
            sink.log(iteration, row)

    @on_rank_zero
    def log_samples(
        self, iteration: int, sample: Callable[[int, int, str], Tensor], at_once: int = ROW
    ) -> None:
        """Write the grid from the fixed latents; `sample` makes images as `Gan.sample` does, some at once."""
        passes = [sample(start, min(start + at_once, GRID), "samples") for start in range(0, GRID, at_once)]
        grid = write_grid(self.directory.samples / f"{iteration:08d}.png", torch.cat(passes))
        for sink in self._sinks:
            sink.log_samples(iteration, grid)

    @on_rank_zero
    def save_checkpoint(
        self, state: Mapping[str, Any], pending_row: Mapping[str, float] | None = None
    ) -> None:
        """Write a training state; `pending_row` is its iteration's row if that still has to be recorded."""
        content = {
            **state,
            "images": self._facts.get("images"),
            "record_length": self._record.length(),
            "unrecorded": None if pending_row is None else dict(pending_row),
        }
        checkpoint.save(self.directory.checkpoints, state["iteration"], content, self._keep_every)

    @on_rank_zero
    def write_networks(
        self, generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor], iteration: int
    ) -> None:
        """Write both networks' weights after so many iterations as safetensors, the generator's last."""
        for path, state in (
            (self.directory.discriminator, discriminator),
            (self.directory.generator, generator),
        ):
            # Copies, because safetensors refuses what layers share, such as one γ.
            tensors = {
                name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
            }
            with replacing(path) as temporary:
                # safetensors' own writer raises no OSError on a full disk.
                temporary.write_bytes(to_safetensors(tensors, {"iteration": str(iteration)}))

    def write_status(self, state: str, iteration: int, reason: str = "", **details: str | int) -> None:
        """Record how the run stands, see `RunDirectory.write_status`; for rank zero, which waits for none."""
        self.directory.write_status(state, iteration, reason, **details, **_slurm_job(), **self._facts)

    def finish(self, state: str, at_once: bool = False) -> None:
        """The run ends in this state; `at_once` waits for no tracker but the local record."""
        for sink in self._sinks[:1] if at_once else self._sinks:
            sink.finish(state)
        for sink in self._sinks[1:] if at_once else []:
            getattr(sink, "abandon", lambda: None)()


def ended_before(directory: RunDirectory, iterations: int) -> str | None:
    """The state of a run that needs no further training; None where there is something to do."""
    if directory.config.exists():
        directory.read_config()  # refuses a run of another version
    status = directory.read_status()
    state = status.get("state")
    if state == DIVERGED or (state == FINISHED and status.get("iteration", 0) >= iterations):
        return state
    return None


def _slurm_job() -> dict[str, str]:
    """The Slurm job that this is, as `squeue` names it; empty outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
    return {"slurm_job": job} if job else {}


class _LogFile(logging.FileHandler):
    """A log that a full disk silences, where it would print a traceback for each line it cannot write."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Everything to the run's log, warnings to the terminal too."""
    file, terminal = _LogFile(path, encoding="utf-8"), logging.StreamHandler()
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    terminal.setLevel(logging.WARNING)
    logger = logging.getLogger("gan_lab")
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(file)
    logger.addHandler(terminal)
    try:
        yield
    finally:
        logger.removeHandler(file)
        logger.removeHandler(terminal)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        file.close()
