"""A dataset that is drawn: one coloured disc or square on a dark ground."""

from pathlib import Path

import numpy as np

from gan_lab.data import ImageArray, open_array, write_array


def prepare(root: Path, image_size: int, count: int, seed: int) -> ImageArray:
    """The array of `count` shapes under `root`, made on first use."""
    # All that decides the pixels is in the name, so that two arrays made differently never mix.
    path = root / f"shapes-{image_size}-{count}-{seed}.npy"
    if path.with_suffix(".json").exists():
        return open_array(path)
    rng = np.random.default_rng(seed)
    images = np.stack([draw(rng, image_size) for _ in range(count)])
    return write_array(path, images, {"name": "shapes", "count": count, "seed": seed})


def draw(rng: np.random.Generator, size: int) -> np.ndarray:
    """One image `[3, size, size]` uint8."""
    y, x = np.mgrid[0:size, 0:size] / size
    centre, radius = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.25)
    dy, dx = np.abs(y - centre[0]), np.abs(x - centre[1])
    inside = dy**2 + dx**2 < radius**2 if rng.random() < 0.5 else np.maximum(dy, dx) < radius
    image = np.full((3, size, size), 20, np.uint8)
    image[:, inside] = rng.integers(100, 256, (3, 1))
    return image
