"""The training loop: iterations, and what is due between them."""

import contextlib
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gan_lab.runs.store import Store
from gan_lab.training.divergence import Diverged, DivergenceMonitor
from gan_lab.training.gan import Gan, IterationInputs, Measure
from gan_lab.training.graph import GraphedUpdate


class Interrupted(Exception):
    """Somebody asked the run to stop; it can be resumed from the checkpoint that was written."""


class Evaluator(Protocol):
    """A judge of generated images, see `gan_lab.metrics`; `every` is its interval, 0 for the end only."""

    @property
    def every(self) -> int: ...

    def evaluate(self, generate: Callable[[int, int], Tensor]) -> dict[str, float]: ...


@dataclass(frozen=True)
class Due:
    """What an iteration does next to its updates."""

    measure: Measure
    log: bool  # a line of the record
    samples: bool  # a grid of samples
    checkpoint: bool
    is_last: bool  # all evaluators judge


@dataclass(frozen=True)
class Intervals:
    """How long to train, and how many iterations lie between what; 0 means never where that makes sense."""

    iterations: int
    log_every: int
    probe_every: int
    audit_every: int
    sample_every: int  # and at the end
    checkpoint_every: int  # and at the end

    def due(self, iteration: int) -> Due:
        """What is due after this iteration (and, of measurements, within it)."""
        measure, is_last = Measure.NOTHING, iteration == self.iterations
        if is_due(iteration, self.probe_every):
            measure = Measure.PROBES
        if is_due(iteration, self.audit_every):
            measure = Measure.AUDIT
        return Due(
            measure=measure,
            log=measure != Measure.NOTHING or is_due(iteration, self.log_every),
            samples=is_last or is_due(iteration, self.sample_every),
            checkpoint=is_last or is_due(iteration, self.checkpoint_every),
            is_last=is_last,
        )


def is_due(iteration: int, every: int) -> bool:
    """Whether an interval ends here; 0 never does."""
    return every > 0 and iteration % every == 0


def train(
    gan: Gan,  # what learns, new or from a checkpoint
    store: Store,  # where rows, samples and checkpoints go
    evaluators: Sequence[Evaluator],  # judges of the samples, each at its interval and at the end
    intervals: Intervals,  # how long, and how many iterations lie between what
    monitor: DivergenceMonitor,  # looks for losses, scores and weights that are not sound
    stop_requested: Callable[[], str | None],  # the signal to stop for; all ranks ask at the same time
    graphed: GraphedUpdate | None = None,  # `gan.update` seen by the monitor, as a graph
) -> None:
    """Train to the last iteration. Raises Interrupted or Diverged, with a checkpoint written."""

    def update_and_see(inputs: IterationInputs, measure: Measure) -> Mapping[str, Tensor]:
        values = gan.update(inputs, measure)
        monitor.see(values)
        return values

    def sample(start: int, stop: int) -> Tensor:
        if signal := stop_requested():  # judging can take minutes: a request to stop does not wait for it
            raise Interrupted(f"stopped by {signal} in the metrics of iteration {gan.iteration}")
        return gan.sample(start, stop)

    update = graphed or update_and_see
    clock = Clock(gan.device, gan.iteration, images_per_iteration=sum(gan.batches.sizes[: gan.n_dis]))
    pending = store.pending_row
    while pending is not None or gan.iteration < intervals.iterations:
        if pending is None:
            due = intervals.due(gan.iteration + 1)
            values = update(gan.draw(gan.iteration + 1), due.measure)
            row = to_floats(values) | clock.lap(gan.iteration) if due.log else {}
        else:  # a run that was stopped while this iteration was judged: what is left of it is its record
            due, row, pending = intervals.due(gan.iteration), pending, None

        judges = [judge for judge in evaluators if due.is_last or is_due(gan.iteration, judge.every)]
        if not (row or due.samples or due.checkpoint or judges or stop_requested()):
            continue

        with clock.paused():
            try:
                monitor.check()
                figures = {name: value for judge in judges for name, value in judge.evaluate(sample).items()}
            except Diverged:
                store.save_checkpoint(gan.state_dict())
                raise
            except Interrupted:
                store.save_checkpoint(gan.state_dict(), pending_row=row)
                raise
            store.log(gan.iteration, row | figures)
            if due.samples:
                store.log_samples(gan.iteration, gan.sample)
            signal = stop_requested()
            if due.checkpoint or signal:
                store.save_checkpoint(gan.state_dict())
            if signal and not due.is_last:
                raise Interrupted(f"stopped by {signal} after iteration {gan.iteration}")


class Clock:
    """Times iterations, without what lies between them."""

    def __init__(self, device: torch.device, iteration: int, images_per_iteration: int) -> None:
        self._device = device
        self._images = images_per_iteration
        self._iteration = iteration
        self._start = time.perf_counter()
        self._peak = 0
        _forget_peak(device)  # an earlier run's of this process

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        _forget_peak(self._device)  # that of judging and sampling
        self._start += time.perf_counter() - begin

    def lap(self, iteration: int) -> dict[str, float]:
        """Speed since the last lap (real images through the discriminator in a second), and peak memory.

        On a GPU that is the most that iterations have taken; the process's own is of all that it ever did.
        """
        now = time.perf_counter()
        seconds = (now - self._start) / (iteration - self._iteration)
        self._start, self._iteration = now, iteration
        self._peak = max(self._peak, _peak_memory(self._device))
        return {
            "speed/step_ms": 1000 * seconds,
            "speed/images_per_s": self._images / seconds,
            "memory/peak_mb": self._peak / 2**20,
        }


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def _forget_peak(device: torch.device) -> None:
    """Of a GPU; a process cannot forget its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars to the host in one transfer."""
    stacked = torch.stack([value.float().reshape(()) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))
