"""What a user would write by hand: torchvision's CIFAR-10 through a DataLoader, and a plain training loop."""

import contextlib
import multiprocessing
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10

from benchmarks.gans import the_device
from benchmarks.timing import BLOCK
from gan_lab import build
from gan_lab.config import compose, load
from gan_lab.data import cifar10

ROWS = 2000  # in each of the archive's five training batches


class UncheckedCIFAR10(CIFAR10):
    """torchvision's dataset on an extracted archive that is not the published one."""

    train_list: ClassVar[list[list[Any]]] = [[name, None] for name in cifar10.PUBLISHED.members]
    test_list: ClassVar[list[list[Any]]] = []
    meta: ClassVar[dict[str, Any]] = {"filename": "batches.meta", "key": "label_names", "md5": None}


def write_cifar10(folder: Path, rows: int = ROWS) -> np.ndarray:
    """Write noise as CIFAR-10's five extracted batches; returns the images `[5 · rows, 3, 32, 32]`."""
    names = cifar10.PUBLISHED.members
    pixels = np.random.default_rng(0).integers(0, 256, (len(names), rows, 3072), dtype=np.uint8)
    files: dict[str, dict[str, Any]] = {"batches.meta": {"label_names": list("0123456789")}}
    for name, batch in zip(names, pixels, strict=True):
        files[name] = {"data": batch, "labels": [0] * rows}
    place = folder / cifar10.PUBLISHED.folder
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / name).write_bytes(pickle.dumps(content))
    return pixels.reshape(-1, 3, 32, 32)


def loader(folder: Path, workers: int, batch_size: int = 64) -> DataLoader[tuple[Tensor, int]]:
    """Shuffled batches of images in [-1, 1] from the extracted archive in `folder`."""
    to_unit_range = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    dataset = UncheckedCIFAR10(str(folder), transform=to_unit_range)
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True)


class PlainLoop:
    """SNGAN's training on a config's networks, in float32 and as a tutorial has it."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        plain = ("norm=none", "train.channels_last=false")
        config = load(compose([*overrides, *plain]))
        self.device = the_device()
        self.generator, self.discriminator = build.build_networks(config, self.device)
        for layer in self.discriminator.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), 1e-4, (0.5, 0.999))
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), 1e-4, (0.5, 0.999))
        self.latent_dim = config.arch.latent_dim
        batches = loader(folder, workers=2, batch_size=config.train.batch_size)
        self.batches = _forever(batches)

    def step(self) -> tuple[float, float]:
        """One update of each network; returns their losses, which a user would print."""
        real = next(self.batches)[0].to(self.device)
        latents = torch.randn(len(real), self.latent_dim, device=self.device)
        fake = self.generator(latents).detach()
        d_loss = torch.relu(1 - self.discriminator(real)).mean()
        d_loss = d_loss + torch.relu(1 + self.discriminator(fake)).mean()
        self.d_optimizer.zero_grad()
        d_loss.backward()
        self.d_optimizer.step()

        latents = torch.randn(len(real), self.latent_dim, device=self.device)
        g_loss = -self.discriminator(self.generator(latents)).mean()
        self.g_optimizer.zero_grad()
        g_loss.backward()
        self.g_optimizer.step()
        return d_loss.item(), g_loss.item()


def _forever(batches: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from batches


@contextlib.contextmanager
def plain_training(folder: Path, overrides: Sequence[str]) -> Iterator[Callable[[], float]]:
    """Inside the block, a function that gives the time of a PlainLoop's iteration, the mean over a few.

    It runs in a process of its own, which nothing of this project has set up.
    """
    write_cifar10(folder)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _start, (folder, list(overrides))) as worker:
        count = BLOCK if the_device().type == "cuda" else 3
        yield lambda: worker.submit(_iterations, count).result()


_loop: PlainLoop


def _start(folder: Path, overrides: list[str]) -> None:
    global _loop
    _loop = PlainLoop(folder, overrides)


def _iterations(count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        _loop.step()
    return (time.perf_counter() - begin) / count
