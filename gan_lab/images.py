"""Images as PNG files: one grid, or a folder."""

import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from torch import Tensor

from gan_lab.errors import UserError
from gan_lab.files import replacing


def write_grid(path: Path, images: Tensor) -> Path:
    """Write uint8 images `[N, 3, H, W]` as one nearly square grid; returns the path."""
    grid = _grid(images.cpu())
    with replacing(path) as temporary:
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    return path


def _grid(images: Tensor, margin: int = 2) -> Tensor:
    """White between them; that of torchvision, whose import takes longer than a run's first step."""
    if len(images) == 1:
        return images[0]
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    down, across = height + margin, width + margin
    rows = math.ceil(count / columns)
    grid = images.new_full((channels, rows * down + margin, columns * across + margin), 255)
    for number, image in enumerate(images):
        top, left = number // columns * down + margin, number % columns * across + margin
        grid[:, top : top + height, left : left + width] = image
    return grid


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
