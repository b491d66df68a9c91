"""STL-10 (Coates et al. 2011): the 100,000 unlabeled images, 96×96."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gan_lab.data import preparation
from gan_lab.data.archives import Published, PublishedOrigin, published_files
from gan_lab.data.array import ImageArray
from gan_lab.data.preparation import IMAGES_PER_CHUNK
from gan_lab.data.raw import readable
from gan_lab.data.recipe import Decoded, Recipe
from gan_lab.errors import UserError

PUBLISHED = Published(
    file="stl10_binary.tar.gz",
    md5="91f7769df0f17e558f3565bffb0c7dfb",
    images=100_000,
    page="https://cs.stanford.edu/~acoates/stl10/",
    url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    folder="stl10_binary",
    members=("unlabeled_X.bin",),
)
IMAGE_BYTES = 3 * 96 * 96


def prepare(
    root: Path, image_size: int = 48, raw: str | None = None, verify: bool = True, resample: str = "bicubic"
) -> ImageArray:
    """The unlabeled images, resized from 96 pixels, in the archive's order.

    `raw` is the archive, or the folder that it extracts to.
    """
    origin = PublishedOrigin(PUBLISHED, root, raw, verify)
    return preparation.prepare(root, "stl10", Recipe(image_size, resample=resample), origin, UnlabeledImages)


class UnlabeledImages:
    """The archive's (or its folder's) file of unlabeled images; a chunk is a piece of it, in whole images."""

    total: int | None = None

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self._path, self._recipe = path, recipe

    def chunks(self) -> Iterator[bytes]:
        with readable(self._path):
            for name, size, file in published_files(self._path, PUBLISHED):
                if size % IMAGE_BYTES:
                    raise UserError(
                        f"{self._path}: {name} is not a whole number of images: get {PUBLISHED.file} again"
                    )
                while block := file.read(IMAGES_PER_CHUNK * IMAGE_BYTES):
                    yield block

    def decode(self, chunk: bytes) -> Decoded:
        # An image is the red plane, the green and the blue, each column by column.
        images = np.frombuffer(chunk, np.uint8).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        pixels = [self._recipe.resize(Image.fromarray(np.ascontiguousarray(image))) for image in images]
        return Decoded(np.stack(pixels), [])
