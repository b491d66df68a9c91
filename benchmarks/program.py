"""The program's own training loop, timed iteration by iteration."""

import contextlib
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gans import gan_for, iterate
from benchmarks.timing import synchronize
from gan_lab import build
from gan_lab.runs.directory import RunDirectory
from gan_lab.runs.store import Store
from gan_lab.training.gan import Gan, IterationInputs
from gan_lab.training.loop import Intervals, train

LOG_EVERY, PROBE_EVERY = 3, 6  # while timing: plain, plain, logged, plain, plain, probed


class Program:
    """A run's training loop with its store, logging to a metrics.jsonl in `folder`.

    `seconds` is an iteration's mean time at the config's own intervals of logging and probes. To measure it
    in less than a whole interval, plain, logged and probed iterations are timed separately, each from its
    begin to the begin of the next with all that the loop does in between, and weighted by how often they
    occur.
    """

    def __init__(self, overrides: Sequence[str], folder: Path) -> None:
        self.gan, self.config = gan_for(overrides, folder)
        self._store = Store(RunDirectory(folder / "run"), keep_every=10**9)
        self._held = contextlib.ExitStack()
        self._held.enter_context(self._store.opened(fresh=False))
        self._store.begin(self.config.plain, {}, lambda: [])
        self._monitor = build.build_monitor(self.config, self.gan)
        self._shares = shares(self.config.train.log_every, self.config.probes.every)

    def close(self) -> None:
        """Close the record and the log."""
        self._store.finish("finished")
        self._held.close()

    def seconds(self) -> float:
        """The time of an iteration, by the medians of each kind over six, of which the first warms up."""
        times = self.iterations(PROBE_EVERY)
        del times["plain"][0]  # it met the caches as the work of others had left them
        return sum(share * statistics.median(times[kind]) for kind, share in self._shares.items())

    def iterations(self, count: int) -> dict[str, list[float]]:
        """Train so many iterations; returns their times by kind."""
        timed = TimedGan(self.gan, count)
        intervals = Intervals(
            iterations=10**9,
            log_every=LOG_EVERY,
            probe_every=PROBE_EVERY,
            audit_every=0,
            sample_every=0,
            checkpoint_every=10**9,
        )
        first = self.gan.iteration + 1
        with contextlib.suppress(_Enough), self.gan.drawing_ahead():
            train(cast(Gan, timed), self._store, [], intervals, self._monitor, lambda: None)
        times: dict[str, list[float]] = {"plain": [], "logged": [], "probed": []}
        for number in range(count):
            times[kind(first + number)].append(timed.begins[number + 1] - timed.begins[number])
        return times


class TimedGan:
    """A Gan whose iterations' begins are noted; it ends the loop before one more than `count`."""

    def __init__(self, gan: Gan, count: int) -> None:
        self.begins: list[float] = []
        self._gan, self._count = gan, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gan, name)

    def draw(self, iteration: int) -> IterationInputs:
        synchronize(self._gan.device)
        self.begins.append(time.perf_counter())
        if len(self.begins) > self._count:
            raise _Enough
        return self._gan.draw(iteration)


class _Enough(Exception):
    """Raised in the place of one iteration too many."""


def kind(iteration: int) -> str:
    """What the loop does in an iteration while it is timed."""
    if iteration % PROBE_EVERY == 0:
        return "probed"
    return "logged" if iteration % LOG_EVERY == 0 else "plain"


def shares(log_every: int, probe_every: int) -> dict[str, float]:
    """How often an iteration is of which kind; a probed one is logged too. 0 means never probed."""
    probed = 1 / probe_every if probe_every else 0.0
    both = 1 / math.lcm(log_every, probe_every) if probe_every else 0.0
    logged = 1 / log_every - both
    return {"plain": 1 - logged - probed, "logged": logged, "probed": probed}


def floating_point_operations(overrides: Sequence[str], folder: Path) -> int:
    """Those of one iteration's networks by torch's counter: a multiplication and an addition are two.

    That is, of the same config with norm=none, every matrix product and convolution, forward and backward, of
    the `n_dis` discriminator updates (the generator forward; the discriminator forward and backward on real
    and on generated images) and of the generator's update (both networks forward and backward, without the
    discriminator's weight gradients, which it does not need). Norms, activations, losses, probes and
    optimizers count nothing: time that they take lowers the utilization.
    """
    gan, _ = gan_for([*overrides, "norm=none"], folder)
    with FlopCounterMode(display=False) as counter:
        iterate(gan)
    return counter.get_total_flops()
