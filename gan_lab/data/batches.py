"""Batches of real images on the device, drawn uniformly with replacement."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gan_lab.data.array import read_rows
from gan_lab.device import prepare_upload, upload
from gan_lab.distributed.collectives import local_shard
from gan_lab.rng import stream


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 pixels to floats in [-1, 1]."""
    return pixels.float().sub_(127.5).mul_(1 / 127.5)  # division is slower


def to_pixels(images: Tensor) -> Tensor:
    """Floats in [-1, 1] to the nearest uint8 pixel; the inverse of `to_unit_range`."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Batch(NamedTuple):
    """Real images of an update on the device, `[B, 3, H, W]` in [-1, 1], and their classes, `[B]` or None."""

    images: Tensor
    labels: Tensor | None


def sample_labels(labels: Tensor, start: int, stop: int) -> Tensor:
    """Classes `[stop - start]` for generated images with these numbers, as frequent as in `labels` `[N]`."""
    order = torch.randperm(len(labels), generator=stream(0, "classes of samples"))
    return labels[order[torch.arange(start, stop) % len(order)]]


class Batches:
    """Draws the batches of an iteration from an array, as a function of (seed, iteration) and nothing else.

    `sizes` are the numbers of images of an iteration's updates, in their order; `labels` `[N]` the images'
    classes. An array of up to `resident_bytes` lives on the device as uint8. A larger one stays on the disk.
    Both ways draw the same images, on every device.
    """

    def __init__(
        self,
        images: np.ndarray,
        sizes: Sequence[int],
        seed: int,
        device: torch.device,
        resident_bytes: float = math.inf,
        labels: np.ndarray | None = None,
    ) -> None:
        self.sizes = tuple(sizes)
        self.device = device
        self._seed = seed
        self._images = images  # [N, 3, H, W] uint8
        self._labels = None if labels is None else torch.from_numpy(labels)
        self._resident = _to_device(images, device) if images.nbytes <= resident_bytes else None

    @property
    def are_resident(self) -> bool:
        """Whether the images lie on the device; else they are read from the disk."""
        return self._resident is not None

    def draw(self, iteration: int) -> list[Batch]:
        """This rank's shard of each update's batch, `[size / ranks, ...]`, on the device."""
        drawn = self.read(iteration)
        tensors = prepare_upload([*chain(*drawn)], self.device)()
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        return [Batch(self.images(images), labels) for images, labels in pairs if images is not None]

    def read(self, iteration: int) -> list[tuple[Tensor | None, Tensor | None]]:
        """On the host, this rank's shard of each update's batch, for `images`; and the images' classes.

        That is their rows of a resident array, `[B]`, or else their pixels, uint8 `[B, 3, H, W]`.
        """
        drawn: list[tuple[Tensor | None, Tensor | None]] = []
        for update, size in enumerate(self.sizes):
            rows = self._rows(iteration, update, size)
            pixels = rows if self.are_resident else torch.from_numpy(read_rows(self._images, rows.numpy()))
            drawn.append((pixels, None if self._labels is None else self._labels[rows]))
        return drawn

    def images(self, drawn: Tensor) -> Tensor:
        """The images `[B, 3, H, W]` in [-1, 1] of what `read` gave, which has come to the device."""
        return to_unit_range(drawn if self._resident is None else self._resident.index_select(0, drawn))

    def draw_labels(self, iteration: int, update: int, count: int) -> Tensor | None:
        """The classes of this rank's shard of `count` generated images, on the host; as frequent as there."""
        return None if self._labels is None else self._labels[self._rows(iteration, update, count)]

    def sample_labels(self, start: int, stop: int) -> Tensor | None:
        """Classes `[stop - start]` for generated images with these numbers, by `sample_labels`."""
        if self._labels is None:
            return None
        return upload(sample_labels(self._labels, start, stop), self.device)

    def _rows(self, iteration: int, update: int, size: int) -> Tensor:
        """The shard's rows of the array, drawn uniformly with replacement."""
        rng = stream(self._seed, "real images", iteration, update)
        return local_shard(torch.randint(len(self._images), (size,), generator=rng))


def _to_device(images: np.ndarray, device: torch.device, rows: int = 4096) -> Tensor:
    """A copy on the device, made piece by piece: the host never holds a second one."""
    resident = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), rows):
        index = np.arange(start, min(start + rows, len(images)))
        resident[start : start + rows] = torch.from_numpy(read_rows(images, index))
    return resident
