"""Raw files as they lie on the disk: which are images, can they be read, and what tells them apart."""

import contextlib
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from gan_lab.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
EDGE = 2**20  # bytes of an archive's beginning and end in its fingerprint


def is_image(name: str) -> bool:
    """Whether a file's name is an image's; hidden files, such as macOS leaves beside images, are not."""
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")


def list_images(folder: Path) -> list[str]:
    """The images below `folder` as sorted relative paths. Links are followed, each folder once."""
    names, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        facts = Path(place).stat()
        if (facts.st_dev, facts.st_ino) in seen:
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        folders.sort()  # or chance would decide which of two links to one folder is followed
        below = Path(place).relative_to(folder)
        names += [(below / file).as_posix() for file in files if is_image(file)]
    return sorted(names)


def fingerprint(raw: Path) -> str:
    """A short hash that tells one archive from another: of its size, its beginning and its end.

    The end of a .zip or .gz holds checksums of all that is before it. A folder's is of the names, sizes and
    times of its images. Raises UserError where it cannot be read.
    """
    digest = hashlib.sha256()
    with readable(raw):
        if raw.is_dir():
            for name in list_images(raw):
                file = raw / name
                facts = file.stat() if file.exists() else file.lstat()  # a link can point nowhere
                digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
            return digest.hexdigest()[:16]
        with raw.open("rb") as archive:
            size = archive.seek(0, os.SEEK_END)
            digest.update(f"{size}\n".encode())
            for position in (0, max(size - EDGE, 0)):
                archive.seek(position)
                digest.update(archive.read(EDGE))
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a broken archive raises while it is read into one UserError."""
    try:
        yield
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or "it ends early"
        raise UserError(
            f"{path} cannot be read ({reason}): it is truncated, or another kind of file; get it again"
        ) from error
