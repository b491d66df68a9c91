"""Raw files as they lie on the disk: where they are, which are images, and whether they can be read."""

import contextlib
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gan_lab.errors import UserError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# What systems put into users' folders without a leading dot.
NOT_THE_USERS = ("__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir")


class Listing(NamedTuple):
    """The images below a folder, as sorted relative paths, and how many other files of which suffix."""

    names: list[str]
    passed_over: dict[str, int]

    def others(self) -> str:
        """The files that are passed over, in words; "" for none."""
        return ", ".join(f"{count:,} {suffix}" for suffix, count in self.passed_over.items())


def is_image(name: str) -> bool:
    """Whether a file's name is an image's; hidden files, such as macOS leaves next to images, are not."""
    return name.lower().endswith(SUFFIXES) and not any(map(_is_hidden, name.split("/")))


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name != ".") or name.lower() in NOT_THE_USERS


def list_images(folder: Path) -> Listing:
    """The images below `folder`. Links are followed, each folder once; hidden files and folders are left out.

    Raises UserError, naming it, where a folder cannot be read.
    """
    names: list[str] = []
    others: Counter[str] = Counter()
    seen, ahead = set(), [folder]
    while ahead:
        place = ahead.pop()
        try:
            facts = place.stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            folders = []
            # Sorted, or chance would decide which of two links to one folder is followed.
            for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
                if _is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(Path(entry.path))
                elif is_image(entry.name):
                    names.append(Path(entry.path).relative_to(folder).as_posix())
                else:
                    others[Path(entry.name).suffix.lower() or "without suffix"] += 1
        except OSError as error:
            raise UserError(
                f"the folder {error.filename or place} cannot be read ({error.strerror}): make it readable, "
                f"or move it out of {folder}"
            ) from error
        ahead += reversed(folders)
    return Listing(sorted(names), dict(sorted(others.items(), key=lambda item: (-item[1], item[0]))))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except PermissionError:
        raise
    except OSError:  # a link to itself
        return False


def expanded(path: str | Path) -> Path:
    """A path as a user types it, `~` included; raises UserError where that names nobody's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} names the home of nobody here: give the path in full") from error


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a broken archive raises while it is read into one UserError."""
    try:
        yield
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        reason = one_line(error) or "it ends early"
        raise UserError(
            f"{path} cannot be read ({reason}): it is truncated, or another kind of file; get it again"
        ) from error
