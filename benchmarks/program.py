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
from gan_lab.device import allow_tf32
from gan_lab.runs.directory import RunDirectory
from gan_lab.runs.store import Store
from gan_lab.training.gan import Gan, IterationInputs
from gan_lab.training.loop import Intervals, train

LOG_EVERY, PROBE_EVERY = 3, 6  # while timing: plain, plain, logged, plain, plain, probed


class Program:
    """A run's training loop with its store, logging to a metrics.jsonl in `folder`; on a GPU as graphs.

    `seconds` is an iteration's mean time at the config's own intervals of logging and probes. A GPU goes
    through whole intervals, with one synchronization before and after them. A CPU takes too long for that:
    plain, logged and probed iterations are timed separately, each from its begin to the begin of the next
    with all that the loop does in between, and weighted by how often they occur.
    """

    def __init__(self, overrides: Sequence[str], folder: Path) -> None:
        self.gan, self.config = gan_for(overrides, folder)
        self._store = Store(RunDirectory(folder / "run"), keep_every=10**9)
        self._held = contextlib.ExitStack()
        self._held.enter_context(self._store.opened(fresh=False))
        self._store.begin(self.config.plain, {}, lambda: [])
        self._monitor = build.build_monitor(self.config, self.gan)
        self._graphed = build.build_graphed(self.config, self.gan, self._monitor)
        self._shares = shares(self.config.train.log_every, self.config.probes.every)

    def close(self) -> None:
        """Close the record and the log."""
        self._store.finish("finished")
        self._held.close()

    def seconds(self) -> float:
        """The time of an iteration: of whole intervals, or by kind of six of which the first warms up."""
        allow_tf32(self.config.train.tf32)  # another program of this process may not
        if self.gan.device.type == "cuda":
            return self.seconds_of_intervals()
        times = self.iterations(PROBE_EVERY)
        del times["plain"][0]  # it met the caches as the work of others had left them
        return sum(share * statistics.median(times[kind]) for kind, share in self._shares.items())

    def seconds_of_intervals(self) -> float:
        """Train until the config's intervals have come round; returns the mean time of an iteration."""
        log_every, probe_every = self.config.train.log_every, self.config.probes.every
        count = math.lcm(log_every, probe_every or 1)
        begin, end = self._begins(count, count, log_every, probe_every)
        return (end - begin) / count

    def iterations(self, count: int) -> dict[str, list[float]]:
        """Train so many iterations; returns their times by kind."""
        first = self.gan.iteration + 1
        begins = self._begins(count, 1, LOG_EVERY, PROBE_EVERY)
        times: dict[str, list[float]] = {"plain": [], "logged": [], "probed": []}
        for number in range(count):
            times[kind(first + number)].append(begins[number + 1] - begins[number])
        return times

    def _begins(self, count: int, every: int, log_every: int, probe_every: int) -> list[float]:
        """Train `count` iterations; returns when each of `every` began, and the end."""
        timed = TimedGan(self.gan, count, every)
        intervals = Intervals(
            iterations=10**9,
            log_every=log_every,
            probe_every=probe_every,
            audit_every=0,
            sample_every=0,
            checkpoint_every=10**9,
        )
        with contextlib.suppress(_Enough), self.gan.drawing_ahead():
            gan = cast(Gan, timed)
            train(gan, self._store, [], intervals, self._monitor, lambda: None, self._graphed)
        return timed.begins


class TimedGan:
    """A Gan of which the begin of each of `every` iterations is noted; it ends the loop after `count`."""

    def __init__(self, gan: Gan, count: int, every: int) -> None:
        self.begins: list[float] = []
        self._gan, self._count, self._every, self._drawn = gan, count, every, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gan, name)

    def draw(self, iteration: int) -> IterationInputs:
        if self._drawn % self._every == 0:
            synchronize(self._gan.device)
            self.begins.append(time.perf_counter())
        if self._drawn == self._count:
            raise _Enough
        self._drawn += 1
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
