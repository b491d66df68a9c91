"""Any folder of images: nested, of mixed formats, sizes and colours."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gan_lab.data import preparation
from gan_lab.data.array import ImageArray
from gan_lab.data.preparation import IMAGES_PER_CHUNK
from gan_lab.data.raw import SUFFIXES, fingerprint, list_images
from gan_lab.data.recipe import Decoded, Recipe
from gan_lab.errors import UserError


def prepare(
    root: Path,
    path: str | None,
    image_size: int = 64,
    resample: str = "bicubic",
    max_damaged: float = 0.01,
) -> ImageArray:
    """The images below the folder `path`, a centred square of the short side resized, in order of names."""
    if path is None:
        raise UserError("dataset.path has no value: give the folder of images, as in dataset.path=/my/images")
    recipe = Recipe(image_size, resample=resample)
    origin = FolderOrigin(Path(path).expanduser())
    return preparation.prepare(root, "folder", recipe, origin, Files, max_damaged)


@dataclass(frozen=True)
class FolderOrigin:
    """A user's own folder: a file more, less or changed makes it another origin."""

    folder: Path
    images: int | None = None

    def key(self) -> str:
        return f"folder {fingerprint(self.locate())}"

    def locate(self) -> Path:
        if not self.folder.is_dir():
            raise UserError(f"dataset.path={self.folder} is not a folder: give the folder of images")
        return self.folder

    def check(self, raw: Path) -> None:
        """A user's folder is what it is."""


class Files:
    """The images below a folder."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder, self._recipe = folder, recipe
        self._names = list_images(folder)
        self.total = len(self._names)
        if not self._names:
            raise UserError(f"{folder} holds no images ({', '.join(SUFFIXES)}): give another folder")

    def chunks(self, first: int) -> Iterator[list[str]]:
        for start in range(first * IMAGES_PER_CHUNK, self.total, IMAGES_PER_CHUNK):
            yield self._names[start : start + IMAGES_PER_CHUNK]

    def decode(self, chunk: list[str]) -> Decoded:
        return self._recipe.decode_all((name, (self._folder / name).read_bytes) for name in chunk)
