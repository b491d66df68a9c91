"""A small pair of networks, and its training in a folder, as `gan_lab.run` joins the parts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gan_lab import norms
from gan_lab.data import Batches
from gan_lab.losses import Hinge
from gan_lab.rng import stream
from gan_lab.runs.directory import RunDirectory
from gan_lab.runs.store import Store
from gan_lab.tracking import Tracker
from gan_lab.tracking.jsonl import read
from gan_lab.training.divergence import DivergenceMonitor
from gan_lab.training.gan import Gan
from gan_lab.training.loop import Evaluator, Intervals, train

CPU = torch.device("cpu")
LATENTS, SIZE = 6, 8
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, SIZE, SIZE), np.uint8)
SEED, BATCH, G_BATCH, N_DIS = 3, 5, 7, 2

Optimizer = Callable[..., torch.optim.Optimizer]
Pair = tuple[nn.Module, nn.Module]


def toy_generator() -> nn.Module:
    return nn.Sequential(
        nn.Linear(LATENTS, 8 * 4 * 4),
        nn.Unflatten(1, (8, 4, 4)),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )


def toy_discriminator() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(8 * 4 * 4, 1), nn.Flatten(0)
    )


def toys(estimator: Callable[..., Any] | None = None) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, discriminator = toy_generator(), toy_discriminator()
        if estimator:
            image = torch.zeros(1, 3, SIZE, SIZE)
            norms.normalize(discriminator, estimator, scale=1.5, example_input=image)
    return generator, discriminator


def toy_gan(
    networks: Pair | None = None,
    optimizer: Optimizer = torch.optim.Adam,
    lr: float = 1e-2,
    seed: int = SEED,
    n_dis: int = N_DIS,
    loss: Any = None,
    labels: np.ndarray | None = None,
    **more: Any,
) -> Gan:
    generator, discriminator = networks or toys()
    loss = loss or Hinge()
    sizes = [BATCH] * n_dis + [G_BATCH] * getattr(loss, "generator_sees_real", False)
    return Gan(
        generator=generator,
        discriminator=discriminator,
        loss=loss,
        g_optimizer=optimizer(generator.parameters(), lr=lr),
        d_optimizer=optimizer(discriminator.parameters(), lr=lr),
        batches=Batches(IMAGES, sizes, seed, CPU, labels=labels),
        g_batch_size=G_BATCH,
        latent_dim=LATENTS,
        seed=seed,
        n_dis=n_dis,
        **more,
    )


class Relativistic:
    """Jolicoeur-Martineau 2018 (arXiv 1807.00734), equation 7: both losses are of pairs of scores."""

    generator_sees_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(real - fake).mean()


class Distortion:
    """Each image brighter or darker, and some of them mirrored."""

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=rng)

    def __call__(self, images: Tensor, numbers: Tensor | None) -> Tensor:
        assert numbers is not None
        return torch.where(numbers < 0.5, images.flip(-1), images) * (0.5 + numbers)


CLASSES = 3
LABELS = np.random.default_rng(1).integers(0, CLASSES, len(IMAGES))


class ConditionalGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.of_class = nn.Embedding(CLASSES, LATENTS)
        self.body = toy_generator()

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.body(z + self.of_class(labels))


class Projection(nn.Module):
    """Miyato & Koyama 2018 (arXiv 1802.05637), equation 3, on the features before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        *features, self.linear, self.flatten = toy_discriminator()
        self.features = nn.Sequential(*features)
        self.of_class = nn.Embedding(CLASSES, 8 * 4 * 4)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(images)
        return self.flatten(self.linear(features)) + (self.of_class(labels) * features).sum(1)


@dataclass
class Judge:
    """A metric of several batches."""

    every: int

    def evaluate(self, generate: Callable[[int, int], Tensor]) -> dict[str, float]:
        return {"metric/mean": sum(generate(4 * k, 4 * k + 4).float().mean().item() for k in range(3))}


@dataclass
class Recording:
    """A tracker that keeps what it is given."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.rows.append({"iteration": iteration, **values})

    def log_samples(self, iteration: int, grid: Path) -> None:
        assert grid.stem == f"{iteration:08d}"

    def finish(self, state: str) -> None:
        pass


class Training:
    """The training of a `Gan` in a folder, resumed if there is a checkpoint."""

    def __init__(
        self,
        folder: Path,
        gan: Gan,
        trackers: Sequence[Tracker] = (),
        evaluators: Sequence[Evaluator] = (Judge(3),),
        stop_requested: Callable[[], str | None] = lambda: None,
        max_score: float = 1e6,
        stop_on_divergence: bool = True,
        **intervals: int,
    ) -> None:
        defaults = {
            "iterations": 8,
            "log_every": 1,
            "probe_every": 2,
            "audit_every": 0,
            "sample_every": 2,
            "checkpoint_every": 2,
        }
        self.gan = gan
        self.intervals = Intervals(**{**defaults, **intervals})
        self.directory = RunDirectory(folder)
        self.directory.create()
        self.store = Store(self.directory, keep_every=100)
        self.monitor: DivergenceMonitor
        self._evaluators, self._stop_requested = evaluators, stop_requested
        self._divergence = max_score, stop_on_divergence
        state = self.store.load() or {}
        if state:
            gan.load_state_dict(state)
        self.store.begin({}, state, lambda: trackers)

    def train(self) -> "Training":
        self.monitor = DivergenceMonitor(self.gan, *self._divergence)
        try:
            train(self.gan, self.store, self._evaluators, self.intervals, self.monitor, self._stop_requested)
        finally:
            self.store.finish("failed")
        return self

    @property
    def rows(self) -> list[dict[str, float]]:
        """The record without what the machine decides."""
        machine = ("speed/", "memory/")
        rows = read(self.directory.metrics)
        return [{k: v for k, v in row.items() if not k.startswith(machine)} for row in rows]

    @property
    def grids(self) -> dict[int, bytes]:
        """The files of samples, by their iterations."""
        return {int(path.stem): path.read_bytes() for path in sorted(self.directory.samples.iterdir())}

    @property
    def checkpoint(self) -> dict[str, Any]:
        """The newest."""
        state = self.store.load()
        assert state is not None
        return state


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def weights(gan: Gan) -> dict[str, Tensor]:
    """Everything that training changes in the networks, buffers included."""
    pair = {"g": gan.generator, "d": gan.discriminator}
    return {f"{key}.{name}": value for key, net in pair.items() for name, value in snapshot(net).items()}


def differing(one: Any, other: Any, name: str = "") -> list[str]:
    """The names of what differs between two states, in the least bit."""
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, Mapping):
        assert one.keys() == other.keys(), name
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple):
        pairs = list(zip(range(len(one)), one, other, strict=True))
    else:
        return [] if one == other else [name]
    return [found for key, ours, theirs in pairs for found in differing(ours, theirs, f"{name}.{key}")]


# --- a second implementation


def real_images(iteration: int, step: int, count: int = BATCH) -> Tensor:
    index = torch.randint(len(IMAGES), (count,), generator=stream(SEED, "real images", iteration, step))
    return torch.from_numpy(IMAGES)[index].float().sub(127.5).mul(1 / 127.5)


def latents(iteration: int, step: int, count: int) -> Tensor:
    return torch.randn(count, LATENTS, generator=stream(SEED, "latents", iteration, step))


def plain_loop(
    generator: nn.Module,
    discriminator: nn.Module,
    iterations: int,
    optimizer: Optimizer,
    lr: float,
    effective: Callable[[bool], dict[str, Tensor]] = lambda moves: {},
) -> list[dict[str, float]]:
    """Miyato et al. 2018, algorithm 1, the hinge loss; `effective(moves)` gives weights in place of D's."""
    d_optimizer = optimizer(discriminator.parameters(), lr=lr)
    g_optimizer = optimizer(generator.parameters(), lr=lr)
    rows = []
    for iteration in range(1, iterations + 1):
        for step in range(N_DIS):
            fake = generator(latents(iteration, step, BATCH)).detach()
            replaced = effective(True)
            real_scores = functional_call(discriminator, replaced, (real_images(iteration, step),))
            fake_scores = functional_call(discriminator, replaced, (fake,))
            loss_real = torch.maximum(1 - real_scores, torch.zeros(())).mean()
            loss_fake = torch.maximum(1 + fake_scores, torch.zeros(())).mean()
            d_optimizer.zero_grad()
            (loss_real + loss_fake).backward()
            d_optimizer.step()
        scores = functional_call(
            discriminator, effective(False), (generator(latents(iteration, N_DIS, G_BATCH)),)
        )
        g_optimizer.zero_grad()
        (-scores.mean()).backward()
        g_optimizer.step()
        values = {
            "loss/d": loss_real + loss_fake,
            "loss/d_real": loss_real,
            "loss/d_fake": loss_fake,
            "score/real": real_scores.mean(),
            "score/fake": fake_scores.mean(),
            "loss/g": -scores.mean(),
        }
        rows.append({"iteration": iteration, **{name: value.item() for name, value in values.items()}})
    return rows
