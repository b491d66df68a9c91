"""CelebA (Liu et al. 2015): the 202,599 aligned and cropped faces, 178×218."""

import functools
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gan_lab.data import preparation
from gan_lab.data.archives import Published, PublishedOrigin, zip_names
from gan_lab.data.array import ImageArray
from gan_lab.data.folder import Files, in_chunks
from gan_lab.data.preparation import Source
from gan_lab.data.raw import is_image, list_images, readable
from gan_lab.data.recipe import Decoded, Recipe
from gan_lab.errors import UserError

PUBLISHED = Published(
    file="img_align_celeba.zip",
    md5="00d2c5bc6d35e252742224ab0c1e8fcb",
    images=202_599,
    page="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Align&Cropped Images)",
    url="https://drive.google.com/file/d/0B7EVK8r0v71pZjFTYXZWM3FlRnM",
    folder="img_align_celeba",
)


def prepare(
    root: Path,
    image_size: int = 64,
    raw: str | None = None,
    verify: bool = True,
    crop: int = 128,
    resample: str = "bicubic",
    max_damaged: float = 0.001,
) -> ImageArray:
    """The faces, a centred square of `crop` pixels resized, in the order of their numbers.

    `raw` is the zip, or the folder of its images.
    """
    origin = PublishedOrigin(PUBLISHED, root, raw, verify)
    recipe = Recipe(image_size, crop, source_size=(178, 218), resample=resample)
    return preparation.prepare(root, "celeba", recipe, origin, _open, max_damaged)


def _open(raw: Path, recipe: Recipe) -> Source:
    return Files(raw, recipe, list_images(raw)) if raw.is_dir() else ZippedImages(raw, recipe)


class ZippedImages:
    """The images in a zip, by name."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self._path, self._recipe = path, recipe
        self._names = [name for name in zip_names(path) if is_image(name)]
        self.total = len(self._names)
        if not self._names:
            raise UserError(f"{path} holds no images: it is not {PUBLISHED.file}, get that")

    def chunks(self) -> Iterator[list[str]]:
        return in_chunks(self._names)

    def decode(self, chunk: list[str]) -> Decoded:
        return self._recipe.decode_all((name, functools.partial(self._archive.read, name)) for name in chunk)

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        """Opened by each worker for itself: a shared file would share its position."""
        with readable(self._path):
            return zipfile.ZipFile(self._path)
