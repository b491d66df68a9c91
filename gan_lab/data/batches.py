"""Batches of real images on the device, drawn uniformly with replacement."""

import math
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from gan_lab.distributed import collectives
from gan_lab.data.array import read_rows
from gan_lab.rng import stream


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 pixels to floats in [-1, 1]."""
    return pixels.float().sub_(127.5).mul_(1 / 127.5)  # division is slower


def to_pixels(images: Tensor) -> Tensor:
    """Floats in [-1, 1] to the nearest uint8 pixel; the inverse of `to_unit_range`."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Batches:
    """Draws batches from an array of images, as a function of (seed, iteration, step) and nothing else.

    An array of up to `resident_bytes` lives on the device as uint8. A larger one stays on the disk: while one
    batch trains, a thread reads the next, which with `n_dis` steps in an iteration is known beforehand. Both
    ways draw the same images, on every device.
    """

    def __init__(
        self,
        images: np.ndarray,
        batch_size: int,
        seed: int,
        device: torch.device,
        resident_bytes: float = math.inf,
        n_dis: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self._images = images  # [N, 3, H, W] uint8
        self._n_dis = n_dis
        self._resident = _to_device(images, device) if images.nbytes <= resident_bytes else None
        self._reader = ThreadPoolExecutor(1, "next-batch")
        self._next: tuple[tuple[int, int], Future[Tensor]] | None = None

    def draw(self, iteration: int, step: int) -> Tensor:
        """This rank's share of one update's real images, `[batch_size / ranks, 3, H, W]` in [-1, 1].

        `step` counts the discriminator updates of one iteration from 0.
        """
        if self._resident is not None:
            index = self._pinned(self._index(iteration, step)).to(self.device, non_blocking=True)
            return to_unit_range(self._resident.index_select(0, index))
        batch = self._prepared(iteration, step)
        following = (iteration, step + 1) if step + 1 < self._n_dis else (iteration + 1, 0)
        self._next = following, self._reader.submit(self._read, *following)
        return to_unit_range(batch.to(self.device, non_blocking=True))

    def _prepared(self, iteration: int, step: int) -> Tensor:
        """The batch that the thread has read, if it is this one."""
        if self._next is not None and self._next[0] == (iteration, step):
            return self._next[1].result()
        return self._read(iteration, step)

    def _read(self, iteration: int, step: int) -> Tensor:
        return self._pinned(
            torch.from_numpy(read_rows(self._images, self._index(iteration, step).numpy()))
        )

    def _pinned(self, tensor: Tensor) -> Tensor:
        """Where a GPU transfers it without making the host wait for the GPU's queue."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _index(self, iteration: int, step: int) -> Tensor:
        """The share's rows of the array, drawn on the host: a GPU would draw others."""
        rng = stream(self.seed, "real images", iteration, step)
        return collectives.local_shard(torch.randint(len(self._images), (self.batch_size,), generator=rng))


def _to_device(images: np.ndarray, device: torch.device, rows: int = 4096) -> Tensor:
    """A copy on the device, made piece by piece: the host never holds a second one."""
    resident = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), rows):
        index = np.arange(start, min(start + rows, len(images)))
        resident[start : start + rows] = torch.from_numpy(read_rows(images, index))
    return resident
