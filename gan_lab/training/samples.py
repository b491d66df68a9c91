"""What a generator makes of fixed latents, and images as PNG files."""

import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid

from gan_lab.data import to_pixels
from gan_lab.errors import UserError
from gan_lab.files import replacing
from gan_lab.rng import stream


def generate(generator: nn.Module, latent_dim: int, seed: int, purpose: str, start: int, stop: int) -> Tensor:
    """The images with these numbers, uint8 `[stop - start, 3, H, W]`.

    Image k's latents are a function of (seed, purpose, k). The generator runs in eval mode; its state is as
    before.
    """
    if stop <= start:
        raise ValueError(f"no images from {start} to {stop}")
    rows = [torch.randn(latent_dim, generator=stream(seed, purpose, number)) for number in range(start, stop)]
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    with torch.no_grad():
        images = to_pixels(generator(torch.stack(rows).to(device)))
    generator.train(was_training)
    return images


def write_grid(path: Path, images: Tensor) -> Path:
    """Write uint8 images `[N, 3, H, W]` as one nearly square grid; returns the path."""
    grid = make_grid(images.cpu(), nrow=math.ceil(math.sqrt(len(images))), padding=2, pad_value=255)
    with replacing(path) as temporary:
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    return path


def write_images(folder: Path, batches: Iterable[Tensor]) -> int:
    """Write batches of uint8 images `[B, 3, H, W]` to `folder`, one PNG each, all or none; returns how many.

    Raises UserError where `folder` holds something already: old images would pass for new ones.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: give a new one")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    number = 0
    try:
        temporary.mkdir(parents=True)
        for images in batches:
            for pixels in images.permute(0, 2, 3, 1).cpu().numpy():
                Image.fromarray(pixels).save(temporary / f"{number:06d}.png")
                number += 1
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return number
