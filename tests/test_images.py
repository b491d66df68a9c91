"""Grids of images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid

from gan_lab.images import write_grid


@pytest.mark.parametrize("count", [1, 2, 5, 9, 100])
def test_a_grid_is_torchvision_s(tmp_path: Path, count: int) -> None:
    images = torch.randint(0, 256, (count, 3, 5, 7), dtype=torch.uint8)
    with Image.open(write_grid(tmp_path / "grid.png", images)) as written:
        found = np.asarray(written)
    expected = make_grid(images, nrow=int(np.ceil(np.sqrt(count))), padding=2, pad_value=255)
    assert (found == expected.permute(1, 2, 0).numpy()).all()
