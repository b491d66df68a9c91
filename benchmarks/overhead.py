"""What the program adds to the bare steps of its networks."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gans import gan_for
from benchmarks.rows import Row, median_ratio
from benchmarks.timing import seconds
from gan_lab import build, norms
from gan_lab.runs.directory import RunDirectory
from gan_lab.runs.store import Store
from gan_lab.training.gan import Gan
from gan_lab.training.loop import train


def program(rounds: int = 3, block: int = 100) -> Iterator[Row]:
    """`ratio/program`: the demo's training, with logging and probes as by default, over its bare steps.

    After every `block` iterations of the program, `block` of a plain loop over the same networks are timed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare, _ = gan_for([], folder)
        timer = BlockTimer(lambda: bare_steps(bare, block), block, bare.device)
        gan, config = gan_for([], folder)
        intervals = dataclasses.replace(
            build.build_intervals(config),
            iterations=(rounds + 1) * block + 1,
            sample_every=0,
            checkpoint_every=10**9,
        )
        store = Store(RunDirectory(folder / "run"), keep_every=10**9)
        with store.opened(fresh=False):
            store.begin(config.plain, {}, lambda: [timer])
            timer.start()
            train(gan, store, [], intervals, build.build_monitor(config, gan), lambda: None)
            store.finish("finished")
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


def bare_steps(gan: Gan, iterations: int) -> None:
    """The discriminator's and the generator's steps of a Gan's networks, and nothing else."""
    generator, discriminator = gan.generator, gan.discriminator
    parameters = list(discriminator.parameters())
    images = gan.batches.draw(1)[0].images
    latents = torch.randn(len(images), gan.latent_dim, device=gan.device)
    for _ in range(iterations):
        with torch.no_grad():
            fake = generator(latents)
        with norms.cached_weights(discriminator):
            real_scores, fake_scores = discriminator(torch.cat([images, fake])).chunk(2)
        _update(gan.d_optimizer, sum(gan.loss.discriminator(real_scores, fake_scores)))
        for parameter in parameters:
            parameter.requires_grad_(False)
        with norms.cached_weights(discriminator, update=False):
            scores = discriminator(generator(latents))
        for parameter in parameters:
            parameter.requires_grad_(True)
        _update(gan.g_optimizer, gan.loss.generator(scores))


def _update(optimizer: torch.optim.Optimizer, loss: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
