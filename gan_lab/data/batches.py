"""Batches of real images on the device, drawn uniformly with replacement."""

import numpy as np
import torch
from torch import Tensor

from gan_lab.streams import stream


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 pixels to floats in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> Tensor:
    """Floats in [-1, 1] to the nearest uint8 pixel; the inverse of `to_unit_range`."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Batches:
    """Draws batches from an array of images, as a function of (seed, iteration, step) and nothing else.

    The images live on the device as uint8.
    """

    def __init__(self, images: np.ndarray, batch_size: int, seed: int, device: torch.device) -> None:
        self.images = torch.from_numpy(np.array(images)).to(device)  # [N, 3, H, W] uint8
        self.batch_size = batch_size
        self.seed = seed

    def draw(self, iteration: int, step: int) -> Tensor:
        """The real images of one discriminator update, `[batch_size, 3, H, W]` in [-1, 1].

        `step` counts the discriminator updates of one iteration.
        """
        device = self.images.device
        rng = stream(self.seed, "real images", iteration, step, device=device)
        index = torch.randint(len(self.images), (self.batch_size,), generator=rng, device=device)
        return to_unit_range(self.images[index])
