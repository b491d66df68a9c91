"""Training states on disk: written whole, proved readable, loaded without running code."""

import hashlib
import logging
import warnings
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from gan_lab.errors import UserError
from gan_lab.files import replacing, write_text

log = logging.getLogger(__name__)

FORMAT = 1  # raised when a checkpoint's content changes its meaning
KEEP_ROLLING = 2  # the newest, and the one before should the newest turn out damaged


def save(folder: Path, iteration: int, state: dict[str, Any], keep_every: int) -> Path:
    """Write `folder/<iteration>.pt` and its SHA-256 next to it; older ones go once it is proved readable.

    The one before it stays, and multiples of `keep_every` stay for good. Raises OSError where it cannot be
    written, with every older checkpoint intact.
    """
    path = folder / f"{iteration:08d}.pt"
    with replacing(path) as temporary:
        digest = _write(temporary, {"format": FORMAT, "iteration": iteration, **state})
        if _digest(temporary) != digest:
            raise OSError(f"the checkpoint {path} reads differently from what was written")
        # The checksum first: a checkpoint without one is never seen. Where one of this iteration is replaced,
        # both checksums hold.
        replaced = _proved_digest(path)
        write_text(_checksum(path), "".join(f"{valid}\n" for valid in (digest, replaced) if valid))
    rolling = [old for old in _newest_first(folder) if int(old.stem) % keep_every]
    for old in rolling[KEEP_ROLLING:]:
        old.unlink()
        _checksum(old).unlink(missing_ok=True)
    return path


def _write(path: Path, state: dict[str, Any]) -> str:
    """Write a state; returns the SHA-256 of what was to be written. Nothing of it is in memory twice."""
    with path.open("wb") as file:
        stream = _HashingStream(file)
        torch.save(state, cast(IO[bytes], stream))
        if stream.error:
            raise stream.error
    return stream.digest.hexdigest()


class _HashingStream:
    """Passes bytes on to a file, and keeps the first error: `torch.save` cannot raise one from a write."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.error: OSError | None = None
        self._file = file

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        if self.error is None:
            try:
                self._file.write(content)
            except OSError as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        """The file is flushed when it is closed."""


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint, on the CPU; None where there is none.

    One that fails its checksum is set aside with a warning. Raises UserError for one of another format.
    """
    for path in _newest_first(folder):
        if _proved_digest(path):
            return _read(path)
        damaged = path.with_suffix(".damaged")
        path.replace(damaged)
        log.warning(
            "the checkpoint %s is damaged and set aside as %s: the one before is taken, or the start",
            path,
            damaged.name,
        )
    return None


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's state, on the CPU; raises UserError if it is damaged or holds none of this format."""
    if _checksum(path).exists() and not _proved_digest(path):
        raise UserError(f"the checkpoint {path} is damaged, its checksum is another: take an older one")
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about what is refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is no checkpoint that can be loaded safely ({type(error).__name__}): take another, or "
            "start over with fresh=true, which keeps it aside"
        ) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UserError(
            f"the checkpoint {path} has format {found}, this version reads format {FORMAT}: "
            "start over with fresh=true, which keeps it aside"
        )
    return state


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _proved_digest(path: Path) -> str | None:
    """The SHA-256 of a checkpoint's content; None where it cannot be read or is not what was written."""
    try:
        digest = _digest(path)
        return digest if digest in _checksum(path).read_text().split() else None
    except (OSError, UnicodeDecodeError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _newest_first(folder: Path) -> list[Path]:
    paths = (path for path in folder.glob("*.pt") if path.stem.isdecimal())
    return sorted(paths, key=lambda path: int(path.stem), reverse=True)
