"""A stand-in for every dataset: `dataset.prepare._target_=stand_in.prepare` makes a few images of noise."""

from pathlib import Path

import numpy as np

from gan_lab.data import ImageArray, open_array, write_array


def prepare(root: Path, image_size: int, **ignored: object) -> ImageArray:
    """Twenty random images of the dataset's size under `root`, made on first use."""
    path = root / f"noise-{image_size}.npy"
    if path.with_suffix(".json").exists():
        return open_array(path)
    images = np.random.default_rng(0).integers(0, 256, (20, 3, image_size, image_size), dtype=np.uint8)
    return write_array(path, images, {"name": "noise"})
