"""Any folder of images: nested, of mixed formats, sizes and colours."""

import dataclasses
import errno
import functools
import hashlib
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from gan_lab.data import preparation
from gan_lab.data.array import ImageArray
from gan_lab.data.contents import Contents, combined
from gan_lab.data.preparation import IMAGES_PER_CHUNK, refuse_damage
from gan_lab.data.progress import Progress
from gan_lab.data.raw import SUFFIXES, Listing, expanded, list_images
from gan_lab.data.recipe import Decoded, Recipe, printable, read_rgb, try_each
from gan_lab.data.workers import cores, in_order
from gan_lab.errors import UserError

T = TypeVar("T")

MAX_DAMAGED = 0.01  # the share of unreadable images that is left out; more are an error


def prepare(
    root: Path,
    path: str | None,
    image_size: int = 64,
    resample: str = "bicubic",
    max_damaged: float = MAX_DAMAGED,
) -> ImageArray:
    """The images below the folder `path`, a centred square of the short side resized, in order of content.

    Where the folder lies, and what it and its files are called, makes no difference. Its metadata tell
    `passed_over`, the number of other files by their suffix.
    """
    if path is None:
        raise UserError("dataset.path has no value: give the folder of images, as in dataset.path=/my/images")
    recipe = Recipe(image_size, resample=resample)
    origin = FolderOrigin(path, expanded(root))
    array = preparation.prepare(root, "folder", recipe, origin, origin.open, max_damaged)
    facts = {"passed_over": origin.listing.passed_over}
    return dataclasses.replace(array, metadata={**array.metadata, **facts})


class FolderOrigin:
    """A user's own folder: an image more, fewer or another makes it another origin."""

    images = None  # any number

    def __init__(self, path: str, root: Path) -> None:
        self._folder = existing_folder(path)
        self.listing = list_images(self._folder)
        self._contents = Contents(self._folder, root)

    def key(self) -> str:
        self._files = by_content(self.listing.names, self._contents.of(self.listing.names))
        return f"folder {combined([digest for digest, _ in self._files])}"

    def locate(self) -> Path:
        return self._folder

    def check(self, raw: Path) -> None:
        """A user's folder is what it is."""

    def open(self, raw: Path, recipe: Recipe) -> "Files":
        listing = self.listing._replace(names=[name for _, name in self._files])
        return Files(raw, recipe, listing, [digest for digest, _ in self._files])

    def remember(self) -> None:
        self._contents.remember()


def existing_folder(path: str | Path) -> Path:
    """The folder of images that a user names; raises UserError where it is none."""
    folder = expanded(path)
    if not Path(folder).is_dir():
        raise UserError(f"dataset.path={folder} is not a folder: give the folder of images")
    return folder


def by_content(names: Sequence[str], digests: Sequence[str]) -> list[tuple[str, str]]:
    """(SHA-256, name) of files in the order of these: the same whatever the files are called.

    It is as good as a random order; files that cannot be read come last.
    """
    return sorted(zip(digests, names, strict=True))


class Files:
    """The images below a folder, in the order of their names; with `digests`, those that they must have."""

    def __init__(
        self, folder: Path, recipe: Recipe, listing: Listing, digests: Sequence[str] | None = None
    ) -> None:
        self._folder, self._recipe = folder, recipe
        self._names, self._digests = listing.names, digests or [""] * len(listing.names)
        self.total = len(self._names)
        refuse_none(folder, listing)
        if others := listing.others():
            print(f"preparing {self.total:,} images below {folder}, passing over {others}", file=sys.stderr)

    def chunks(self) -> Iterator[list[tuple[str, str]]]:
        return in_chunks(list(zip(self._names, self._digests, strict=True)))

    def decode(self, chunk: list[tuple[str, str]]) -> Decoded:
        return self._recipe.decode_all(
            (name, functools.partial(read, self._folder, name, digest)) for name, digest in chunk
        )


def refuse_none(folder: Path, listing: Listing) -> None:
    """Raise UserError for a folder without images."""
    if not listing.names:
        but = f", but {others}" if (others := listing.others()) else ""
        raise UserError(f"{folder} holds no images ({', '.join(SUFFIXES)}){but}: give another folder")


def in_chunks(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), IMAGES_PER_CHUNK):
        yield items[start : start + IMAGES_PER_CHUNK]


def read(folder: Path, name: str, digest: str = "") -> bytes:
    """A file's content; raises OSError, and UserError where it is not the one with this SHA-256."""
    file = folder / name
    if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe would wait for ever
        raise OSError(errno.EINVAL, "it is not a regular file")
    data = file.read_bytes()
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{folder / printable(name)} was changed while it was in use: start again")
    return data


class _Image(NamedTuple):
    """An image that can be read: its SHA-256, its name, and (width, height) of its pixels."""

    digest: str
    name: str
    size: tuple[int, int]


class FolderImages:
    """The images below a folder, read as training reads them, in an order that does not depend on names.

    With `recipe` each is cropped and resized as that says; without, all must have one size as they are.
    `len` is the number of images that can be read: that of the array which training would prepare; `damaged`
    are (name, reason) of the others, `listing` says which files there are. Raises UserError where there are
    none, where more than the share `max_damaged` cannot be read, and where sizes differ.
    """

    def __init__(
        self, path: str | Path, recipe: Recipe | None = None, max_damaged: float = MAX_DAMAGED
    ) -> None:
        self.path = existing_folder(path)
        self._recipe = recipe
        self.listing = list_images(self.path)
        refuse_none(self.path, self.listing)
        total = len(self.listing.names)
        images: list[_Image] = []
        self.damaged: list[tuple[str, str]] = []
        with Progress(f"reading {self.path}", total) as progress:
            for found, damaged in in_order(self._examine, in_chunks(self.listing.names)):
                images += found
                self.damaged += damaged
                progress.update(len(found) + len(damaged))
        refuse_damage(self.damaged, self.path, total, max_damaged)
        self._images = sorted(images)  # by their checksums
        first = self._images[0]
        if other := next((image for image in self._images if image.size != first.size), None):
            sizes = " and ".join(f"{printable(i.name)} of {i.size[0]}×{i.size[1]}" for i in (first, other))
            raise UserError(f"{self.path} holds images of different sizes ({sizes}): give images of one size")
        self.size = first.size  # (width, height)

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, start: int, stop: int) -> Tensor:
        """The images with these numbers, `[n, 3, H, W]` uint8; raises UserError where one has changed."""
        with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as threads:
            warnings.simplefilter("ignore")  # Pillow's, as in training
            return torch.from_numpy(np.stack(list(threads.map(self._load, self._images[start:stop]))))

    def _load(self, image: _Image) -> np.ndarray:
        try:
            return self._decode(read(self.path, image.name, image.digest))
        except OSError as error:
            raise UserError(
                f"{self.path / printable(image.name)} cannot be read any more ({error.strerror}): start again"
            ) from error

    def _decode(self, data: bytes) -> np.ndarray:
        return self._recipe.decode(data) if self._recipe else np.asarray(read_rgb(data)).transpose(2, 0, 1)

    def _examine(self, names: list[str]) -> tuple[list[_Image], list[tuple[str, str]]]:
        def examine(name: str) -> _Image:
            data = read(self.path, name)
            _, height, width = self._decode(data).shape
            return _Image(hashlib.sha256(data).hexdigest(), name, (width, height))

        return try_each(zip(names, names, strict=True), examine)
