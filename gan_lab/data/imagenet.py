"""ImageNet, ILSVRC 2012 (Russakovsky et al. 2015): the 1,281,167 training images."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gan_lab.data import preparation
from gan_lab.data.archives import Published, PublishedOrigin, members
from gan_lab.data.array import ImageArray
from gan_lab.data.folder import Files
from gan_lab.data.preparation import Source
from gan_lab.data.raw import is_image, list_images, readable
from gan_lab.data.recipe import Decoded, Recipe
from gan_lab.errors import UserError

PUBLISHED = Published(
    file="ILSVRC2012_img_train.tar",
    md5="1d675b47d978889d74fa0da5fadfb00e",
    images=1_281_167,
    page="https://image-net.org/download-images.php (with an account)",
    folder="ILSVRC2012_img_train",
)


def prepare(
    root: Path,
    image_size: int = 128,
    raw: str | None = None,
    verify: bool = True,
    resample: str = "bicubic",
    max_damaged: float = 0.001,
) -> ImageArray:
    """The training images, a centred square of their short side resized, in the order of class and name.

    `raw` is the tar with a tar for each class in it, or a folder with a folder for each class in it.
    """
    origin = PublishedOrigin(PUBLISHED, root, raw, verify)
    return preparation.prepare(
        root, "imagenet", Recipe(image_size, resample=resample), origin, _open, max_damaged
    )


def _open(raw: Path, recipe: Recipe) -> Source:
    return Files(raw, recipe, list_images(raw)) if raw.is_dir() else NestedTar(raw, recipe)


class NestedTar:
    """A tar of tars; a chunk is one of the inner tars, a class, which a worker reads from end to end."""

    total: int | None = None

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self._path, self._recipe = path, recipe

    def chunks(self) -> Iterator[tarfile.TarInfo]:
        with readable(self._path), tarfile.open(self._path, "r:") as outer:
            classes = [member for member in members(outer, self._path) if member.name.endswith(".tar")]
        if not classes:
            raise UserError(f"{self._path} holds no tars of classes: it is not {PUBLISHED.file}, get that")
        yield from sorted(classes, key=lambda member: member.name)

    def decode(self, chunk: tarfile.TarInfo) -> Decoded:
        with (
            readable(self._path),
            tarfile.open(self._path, "r:") as outer,
            tarfile.open(fileobj=outer.extractfile(chunk), mode="r:") as inner,
        ):
            images = [member for member in members(inner, self._path) if is_image(member.name)]
            images.sort(key=lambda member: member.name)
            return self._recipe.decode_all((member.name, self._reader(inner, member)) for member in images)

    def _reader(self, inner: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
        """A function that reads the member: an archive that ends early is not merely a damaged image."""

        def read() -> bytes:
            with readable(self._path):
                file = inner.extractfile(member)
                assert file is not None  # `members` yields regular files
                return file.read()

        return read
