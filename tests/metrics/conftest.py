"""Small images, and a network that judges them and counts what it saw."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.evaluation import write_random_weights
from gan_lab.data import ImageArray, write_array
from gan_lab.metrics import digits_extractor
from gan_lab.metrics.extractors import Extractor

SIZE = 8


class Projection(nn.Module):
    """uint8 images `[B, 3, 8, 8]` to random projections: features `[B, F]`, logits `[B, 5]`."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.features = nn.Parameter(torch.randn(3 * SIZE * SIZE, features, generator=rng) / 8)
        self.logits = nn.Parameter(torch.randn(features, 5, generator=rng))
        self.seen = 0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(images)
        features = images.float().flatten(1) / 64 @ self.features
        return features, features @ self.logits


@pytest.fixture
def projection() -> Callable[..., Extractor]:
    """Makes an extractor from a Projection."""

    def make(suffix: str = "", weights: str = "w", features: int = 6, **named: Any) -> Extractor:
        return Extractor(Projection(features), {"name": "projection", "weights": weights}, suffix, **named)

    return make


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Makes `count` images `[count, 3, 8, 8]` of noise about a level, uint8."""

    def make(count: int, seed: int, level: int = 128) -> Tensor:
        noise = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        return (level + 40 * noise).clamp(0, 255).to(torch.uint8)

    return make


@pytest.fixture
def array_of(tmp_path: Path) -> Callable[..., ImageArray]:
    """Makes an array of images, with `metadata`."""

    def make(pixels: Tensor | np.ndarray, name: str = "real", **metadata: object) -> ImageArray:
        return write_array(tmp_path / f"{name}.npy", np.asarray(pixels), {"name": name, **metadata})

    return make


@pytest.fixture(scope="session")
def digits_weights(data: Path) -> Path:
    """The digits classifier, trained once for all tests."""
    return digits_extractor.weights(data / "cache")


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the shapes of Inception's weights and random values, its batch norms' statistics too."""
    return write_random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture
def warnings_of_metrics(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What gan_lab.metrics logs, whatever became of its parents' handlers."""
    logger = logging.getLogger("gan_lab.metrics")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
