"""What things cost on the machine at hand, as ratios of two things timed in turn within one run.

Each measurement gives rows `{name, value, unit}`; a ratio is the median over rounds of one round's two times,
so that a slow moment of the machine meets both.
"""

import dataclasses
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import parametrize

from gan_lab import norms, parts
from gan_lab.config import check, compose, resolved
from gan_lab.tracking import JsonLines, Trackers
from gan_lab.training import Trainer

NORMS = ("none", "sn", "ssn", "bsn", "bssn", "strict_sn")


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured value."""

    name: str
    value: float
    unit: str


def trainer_for(overrides: Sequence[str], folder: Path, sink: Any = None) -> Trainer:
    """The trainer of a composed config, its record in `folder`."""
    config = resolved(compose([*overrides, "tracker=local", f"paths.data={folder}/data"]))
    check(config)
    device = parts.pick_device(config["device"])
    return parts.build_trainer(config, parts.load_images(config), device)(
        sink=sink or Trackers([]),
        evaluate=None,
        samples=folder / "samples",
        checkpoints=folder / "checkpoints",
        record_length=lambda: 0,
        stop_requested=lambda: None,
    )


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, the device's queue included."""
    _synchronize(device)
    begin = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - begin


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios_to_first(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median over rounds of each one's time over the first one's in the same round."""
    first = next(iter(times.values()))
    return {
        name: statistics.median(ours / base for ours, base in zip(values, first, strict=True))
        for name, values in times.items()
    }


def norm_ratios(rounds: int = 9) -> Iterator[Row]:
    """`ratio/norm/<norm>`: an iteration with each norm over one without; CNN, 32 pixels, batch 64."""
    with tempfile.TemporaryDirectory() as name:
        trainers = {norm: trainer_for([f"norm={norm}", "arch.width=1"], Path(name)) for norm in NORMS}
        times: dict[str, list[float]] = {norm: [] for norm in trainers}
        for round_number in range(rounds + 1):
            # Forth and back, so that no norm always follows the same one.
            order = list(trainers.items())[:: 1 if round_number % 2 else -1]
            for norm, trainer in order:
                duration = seconds(functools.partial(trainer.iterate, trainer.iteration + 1), trainer.device)
                if round_number:  # the first round warms up
                    times[norm].append(duration)
    yield Row("time/step/none", 1000 * statistics.median(times["none"]), "ms")
    for norm, ratio in itertools.islice(ratios_to_first(times).items(), 1, None):
        yield Row(f"ratio/norm/{norm}", ratio, "×")


def program_ratio(rounds: int = 5, block: int = 100) -> Iterator[Row]:
    """`ratio/program`: the demo's training, with logging and probes as by default, over its bare steps.

    After every `block` iterations of the program, `block` of a plain loop over the same networks are timed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = trainer_for([], folder)
        timer = _BlockTimer(lambda: plain_loop(plain, block), block, plain.device)
        record = JsonLines(folder / "metrics.jsonl")
        program = trainer_for([], folder, Trackers([record, timer]))
        program.schedule = dataclasses.replace(
            program.schedule, iterations=(rounds + 1) * block + 1, sample_every=0, checkpoint_every=10**9
        )
        timer.start()
        program.train()
        record.finish("finished")
    ratio = statistics.median(
        ours / bare for ours, bare in zip(timer.blocks[1:], timer.others[1:], strict=True)
    )
    yield Row("ratio/program", ratio, "×")
    yield Row("time/step/digits", 1000 * statistics.median(timer.blocks[1:]) / block, "ms")


class _BlockTimer:
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


def plain_loop(trainer: Trainer, iterations: int) -> None:
    """The discriminator's and the generator's steps of the trainer's networks, and nothing else."""
    generator, discriminator = trainer.generator, trainer.discriminator
    parameters = list(discriminator.parameters())
    images, size = trainer.batches.draw(1, 0), trainer.batches.batch_size
    latents = torch.randn(size, trainer.latent_dim, device=trainer.device)
    for _ in range(iterations):
        with torch.no_grad():
            fake = generator(latents)
        with parametrize.cached():
            real_scores, fake_scores = discriminator(images), discriminator(fake)
        _update(trainer.d_optimizer, sum(trainer.loss.discriminator(real_scores, fake_scores)))
        for parameter in parameters:
            parameter.requires_grad_(False)
        with norms.frozen(discriminator), parametrize.cached():
            scores = discriminator(generator(latents))
        for parameter in parameters:
            parameter.requires_grad_(True)
        _update(trainer.g_optimizer, trainer.loss.generator(scores))


def _update(optimizer: torch.optim.Optimizer, loss: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def probe_ratio(rounds: int = 9) -> Iterator[Row]:
    """`ratio/probes`: training with probes at their default interval over training without.

    Computed from `ratio/probes/step`, an iteration with probes over one without.
    """
    with tempfile.TemporaryDirectory() as name:
        trainer = trainer_for(["arch.width=1"], Path(name))
        times: dict[str, list[float]] = {"off": [], "on": []}
        for round_number in range(rounds + 1):
            for kind in ("off", "on"):
                measure = kind == "on"
                duration = seconds(
                    functools.partial(trainer.iterate, trainer.iteration + 1, measure), trainer.device
                )
                if round_number:
                    times[kind].append(duration)
    extra = ratios_to_first(times)["on"] - 1
    yield Row("ratio/probes", 1 + extra / trainer.schedule.probe_every, "×")
    yield Row("ratio/probes/step", 1 + extra, "×")


MEASUREMENTS: dict[str, Callable[[], Iterator[Row]]] = {
    "norms": norm_ratios,
    "program": program_ratio,
    "probes": probe_ratio,
}
