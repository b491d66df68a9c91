"""The embedded dataset: scikit-learn's 1,797 real handwritten digits (Alpaydin & Kaynak 1998)."""

from pathlib import Path

import numpy as np
from PIL import Image

from gan_lab.data.array import ImageArray, open_array, write_array
from gan_lab.data.raw import expanded


def load_grey() -> tuple[np.ndarray, np.ndarray]:
    """The digits as they ship: grey `[1797, 8, 8]` uint8 in 0..255, and their labels `[1797]` in 0..9."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # they are stored as 0..16
    return grey, bunch.target.astype(np.int64)


def to_rgb(grey: np.ndarray, image_size: int) -> np.ndarray:
    """Resample grey `[N, 8, 8]` to RGB `[N, 3, image_size, image_size]` by Pillow's bicubic filter."""
    size = (image_size, image_size)
    resized = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in grey]
    return np.repeat(np.stack(resized)[:, None], 3, axis=1)


def prepare(root: Path, image_size: int = 32) -> ImageArray:
    """The array of digits under `root`, made on first use."""
    path = expanded(root) / f"digits-{image_size}.npy"
    if path.with_suffix(".json").exists():
        return open_array(path)
    grey, _ = load_grey()
    metadata = {"name": "digits", "source": "sklearn.datasets.load_digits", "resize": "Pillow bicubic"}
    return write_array(path, to_rgb(grey, image_size), metadata)
