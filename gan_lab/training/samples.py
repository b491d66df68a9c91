"""Grids of images as PNG files."""

import math
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from gan_lab.files import replacing


def write_grid(path: Path, images: Tensor) -> Path:
    """Write uint8 images `[N, 3, H, W]` as one nearly square grid; returns the path."""
    grid = make_grid(images.cpu(), nrow=math.ceil(math.sqrt(len(images))), padding=2, pad_value=255)
    with replacing(path) as temporary:
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    return path
