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
BATCHES = tuple(f"{PUBLISHED.folder}/{name}" for name in PUBLISHED.members)


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
        for rows in self._batches():
            for start in range(0, len(rows), self.rows_per_chunk):
                yield rows[start : start + self.rows_per_chunk]

    def decode(self, chunk: np.ndarray) -> Decoded:
        # A row is the red plane, the green and the blue, each row by row.
        images = chunk.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        pixels = [self._recipe.resize(Image.fromarray(np.ascontiguousarray(image))) for image in images]
        return Decoded(np.stack(pixels), [])

    def _batches(self) -> Iterator[np.ndarray]:
        """The pixels `[n, 3072]` of each batch, one at a time; the archive has another order."""
        found = 0
        with readable(self._path):
            for wanted in BATCHES:
                for name, _, file in published_files(self._path, PUBLISHED):
                    if name == wanted:
                        found += 1
                        yield _load(file, f"{self._path}: {name}")
        if not found:
            raise UserError(
                f"{self._path} holds no {BATCHES[0]}: give {PUBLISHED.file}, or {PUBLISHED.folder}, "
                "the folder that it extracts to"
            )


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
