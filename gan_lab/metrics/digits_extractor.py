"""A small digits classifier: the judge of generated digits.

An Inception network trained on photographs says nothing of handwritten digits; this one reads them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_lab.data.digits import load_grey, to_rgb
from gan_lab.metrics import cache
from gan_lab.rng import stream

NAME = "digits"
LAYERS = ["64", "logits"]
KEY = {"recipe": 2}  # raise it with anything that changes the weights
HELD_OUT = 360  # of 1,797


class DigitsClassifier(nn.Module):
    """uint8 images `[B, 3, H, W]` to 64 features `[B, 64]` and 10 logits `[B, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 4 * 4, 64),
        )  # fmt: skip
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        grey = images.float().mean(dim=1, keepdim=True) / 255
        features = self.convolutions(F.adaptive_avg_pool2d(grey, 16))
        return features, self.classifier(F.relu(features))


def split() -> tuple[np.ndarray, np.ndarray]:
    """Indices of the digits that the classifier is trained on, and of those held out to judge it."""
    order = torch.randperm(1797, generator=stream(0, "digits split")).numpy()
    return order[HELD_OUT:], order[:HELD_OUT]


def weights(folder: Path) -> Path:
    """The classifier's weights in `folder`, trained on first use: deterministic, on the CPU, in seconds."""
    if cache.load(folder, "digits-classifier", KEY) is None:
        state = {name: tensor.numpy() for name, tensor in _train().state_dict().items()}
        return cache.store(folder, "digits-classifier", KEY, state)
    return cache.location(folder, "digits-classifier", KEY)


def load(weights: Path | BinaryIO) -> DigitsClassifier:
    """The classifier with the weights of a file; raises whatever a damaged one makes NumPy raise."""
    network = DigitsClassifier()
    with np.load(weights, allow_pickle=False) as arrays:
        network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in network.state_dict()})
    return network.eval().requires_grad_(False)


def _train(epochs: int = 12, batch_size: int = 32) -> DigitsClassifier:
    train, _ = split()
    grey, labels = load_grey()
    images = torch.from_numpy(to_rgb(grey[train], 32))
    targets = torch.from_numpy(labels[train])
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DigitsClassifier()
        steps_per_epoch = len(train) // batch_size
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * steps_per_epoch)
        for epoch in range(epochs):
            rng = stream(0, "digits classifier", epoch)
            order = torch.randperm(len(train), generator=rng)[: steps_per_epoch * batch_size]
            for index in order.split(batch_size):
                # Shifts by up to two pixels, so that a digit is read wherever the generator puts it.
                dy, dx = torch.randint(-2, 3, (2,), generator=rng).tolist()
                _, logits = network(images[index].roll((dy, dx), (2, 3)))
                loss = F.cross_entropy(logits, targets[index], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval().requires_grad_(False)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The number of threads decides the order of sums: with one, every caller gets the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
