"""What the program adds to the bare steps of its networks."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Row, median_ratio
from benchmarks.timing import seconds
from benchmarks.trainers import trainer_for
from gan_lab import norms
from gan_lab.tracking import JsonLines, Trackers
from gan_lab.training import Trainer


def program(rounds: int = 3, block: int = 100) -> Iterator[Row]:
    """`ratio/program`: the demo's training, with logging and probes as by default, over its bare steps.

    After every `block` iterations of the program, `block` of a plain loop over the same networks are timed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = trainer_for([], folder / "bare")
        timer = BlockTimer(lambda: bare_steps(bare, block), block, bare.device)
        (folder / "program").mkdir()
        record = JsonLines(folder / "program" / "metrics.jsonl")
        trainer = trainer_for([], folder / "program", Trackers([record, timer]))
        trainer.schedule = dataclasses.replace(
            trainer.schedule,
            iterations=(rounds + 1) * block + 1,
            sample_every=0,
            evaluate_every=0,
            checkpoint_every=10**9,
        )
        timer.start()
        trainer.train()
        record.finish("finished")
    ours, theirs = timer.blocks[1:], timer.others[1:]  # the first of each warms up
    yield Row("ratio/program", median_ratio(ours, theirs), "×")
    yield Row("time/step/demo", 1000 * statistics.median(ours) / block, "ms")


class BlockTimer:
    """A sink that times the program between its records, and something else after each block."""

    def __init__(self, other: Callable[[], None], block: int, device: torch.device) -> None:
        self._other, self._block, self._device = other, block, device
        self.blocks: list[float] = []
        self.others: list[float] = []
        self._begin = 0.0

    def start(self) -> None:
        self._begin = time.perf_counter()

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        if iteration % self._block == 0:
            self.blocks.append(time.perf_counter() - self._begin)
            self.others.append(seconds(self._other, self._device))
            self.start()

    def log_samples(self, iteration: int, grid: Path) -> None:
        """Samples are not timed."""

    def finish(self, state: str) -> None:
        """Nothing is kept open."""


def bare_steps(trainer: Trainer, iterations: int) -> None:
    """The discriminator's and the generator's steps of the trainer's networks, and nothing else."""
    generator, discriminator = trainer.generator, trainer.discriminator
    parameters = list(discriminator.parameters())
    images, size = trainer.batches.draw(1, 0), trainer.batches.batch_size
    latents = torch.randn(size, trainer.latent_dim, device=trainer.device)
    for _ in range(iterations):
        with torch.no_grad():
            fake = generator(latents)
        with norms.cached_weights(discriminator):
            real_scores, fake_scores = discriminator(torch.cat([images, fake])).chunk(2)
        _update(trainer.d_optimizer, sum(trainer.loss.discriminator(real_scores, fake_scores)))
        for parameter in parameters:
            parameter.requires_grad_(False)
        with norms.cached_weights(discriminator, update=False):
            scores = discriminator(generator(latents))
        for parameter in parameters:
            parameter.requires_grad_(True)
        _update(trainer.g_optimizer, trainer.loss.generator(scores))


def _update(optimizer: torch.optim.Optimizer, loss: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
