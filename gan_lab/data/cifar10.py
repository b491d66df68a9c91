"""CIFAR-10 (Krizhevsky 2009): the 50,000 training images, 32×32."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from gan_lab.data import preparation
from gan_lab.data.archives import Published, PublishedOrigin, published_files
from gan_lab.data.array import ImageArray
from gan_lab.data.raw import readable
from gan_lab.data.recipe import Decoded, Recipe
from gan_lab.errors import UserError

PUBLISHED = Published(
    file="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    images=50_000,
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    members=tuple(f"data_batch_{number}" for number in range(1, 6)),
)


def prepare(
    root: Path, image_size: int = 32, raw: str | None = None, verify: bool = True, resample: str = "bicubic"
) -> ImageArray:
    """The training images in the order of the batches 1 to 5; at 32 pixels, as they are.

    `raw` is the archive, or the folder that it extracts to.
    """
    origin = PublishedOrigin(PUBLISHED, root, raw, verify)
    return preparation.prepare(root, "cifar10", Recipe(image_size, resample=resample), origin, PickledBatches)


class PickledBatches:
    """The five training batches of the archive or its folder; a chunk is a part of one, `[n, 3072]`."""

    total: int | None = None
    rows_per_chunk = 1000

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self._path, self._recipe = path, recipe

    def chunks(self) -> Iterator[np.ndarray]:
        with readable(self._path):
            files = published_files(self._path, PUBLISHED)
            batches = {name: _load(file, f"{self._path}: {name}") for name, _, file in files}
        for name in sorted(batches):  # the archive has another order
            for start in range(0, len(batches[name]), self.rows_per_chunk):
                yield batches[name][start : start + self.rows_per_chunk]

    def decode(self, chunk: np.ndarray) -> Decoded:
        # A row is the red plane, the green and the blue, each row by row.
        images = chunk.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        pixels = [self._recipe.resize(Image.fromarray(np.ascontiguousarray(image))) for image in images]
        return Decoded(np.stack(pixels), [])


def _load(file: IO[bytes], label: str) -> np.ndarray:
    try:
        batch = _ArraysOnly(file, encoding="bytes").load()
        rows = batch[b"data"]
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
            raise ValueError(f"its data are {rows.dtype} {rows.shape}")
    except (pickle.UnpicklingError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{label} is no batch of CIFAR-10 ({error}): get {PUBLISHED.file} again") from error
    return rows


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays and plain values: any other pickle could run anything."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
            case "numpy", ("ndarray" | "dtype"):
                return getattr(np, name)
            case "_codecs", "encode":
                import _codecs

                return _codecs.encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
