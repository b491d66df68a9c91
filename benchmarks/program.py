"""The program's own training loop, timed iteration by iteration."""

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import synchronize
from benchmarks.trainers import trainer_for
from gan_lab.tracking import JsonLines, Trackers

LOG_EVERY, PROBE_EVERY = 3, 6  # while timing: plain, plain, logged, plain, plain, probed


class Program:
    """A run's `Trainer.train`, logging to a metrics.jsonl.

    `seconds` is an iteration's mean time at the config's own intervals of logging and probes. To measure it
    in less than a whole interval, plain, logged and probed iterations are timed apart, each from its begin
    to the begin of the next with all that the loop does in between, and weighted by how often they occur.
    """

    def __init__(self, overrides: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._record = JsonLines(folder / "metrics.jsonl")
        try:
            self.trainer = trainer_for(overrides, folder, Trackers([self._record]))
        except BaseException:
            self.close()
            raise
        schedule = self.trainer.schedule
        self._shares = shares(schedule.log_every, schedule.probe_every)
        self.trainer.schedule = dataclasses.replace(
            schedule,
            iterations=10**9,
            log_every=LOG_EVERY,
            probe_every=PROBE_EVERY,
            audit_every=0,
            sample_every=0,
            evaluate_every=0,
            checkpoint_every=10**9,
        )

    def close(self) -> None:
        """Close the record."""
        self._record.close()

    def seconds(self) -> float:
        """The time of an iteration, by the medians of each kind over six, of which the first warms up."""
        times = self.iterations(PROBE_EVERY)
        del times["plain"][0]  # it met the caches as the work of others had left them
        return sum(share * statistics.median(times[kind]) for kind, share in self._shares.items())

    def iterations(self, count: int) -> dict[str, list[float]]:
        """Train so many iterations; returns their times by kind."""
        begins: list[float] = []
        iterate = self.trainer.iterate

        def timed(iteration: int, *arguments: Any, **named: Any) -> dict[str, Tensor]:
            synchronize(self.trainer.device)
            begins.append(time.perf_counter())
            if len(begins) > count:
                raise _Enough
            return iterate(iteration, *arguments, **named)

        first = self.trainer.iteration + 1
        self.trainer.iterate = timed  # type: ignore[method-assign]
        try:
            with contextlib.suppress(_Enough):
                self.trainer.train()
        finally:
            del self.trainer.iterate
        times: dict[str, list[float]] = {"plain": [], "logged": [], "probed": []}
        for number in range(count):
            times[kind(first + number)].append(begins[number + 1] - begins[number])
        return times


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
    trainer = trainer_for([*overrides, "norm=none"], folder)
    with FlopCounterMode(display=False) as counter:
        trainer.iterate(1)
    return counter.get_total_flops()
