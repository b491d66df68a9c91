"""Training states on disk: written whole, proved readable, loaded without running code."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from gan_lab.errors import UserError
from gan_lab.files import replacing, write_text

log = logging.getLogger(__name__)

FORMAT = 1  # raised when a checkpoint's content changes its meaning
KEEP_ROLLING = 2  # the newest, and the one before should the newest turn out damaged


def save(folder: Path, iteration: int, state: dict[str, Any], keep_every: int) -> Path:
    """Write `folder/<iteration>.pt` and its SHA-256 beside it; older rolling ones go once it is proved readable.

    Multiples of `keep_every` stay for good. Raises OSError where it cannot be written, with every older
    checkpoint intact.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "iteration": iteration, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"{iteration:08d}.pt"
    # The checksum first: a checkpoint without one is never seen.
    write_text(_checksum(path), hashlib.sha256(content).hexdigest() + "\n")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    if not _is_whole(path):
        raise OSError(f"the checkpoint {path} reads differently from what was written")
    rolling = [old for old in _newest_first(folder) if int(old.stem) % keep_every]
    for old in rolling[KEEP_ROLLING:]:
        old.unlink()
        _checksum(old).unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint, on the CPU; None where there is none.

    One that fails its checksum is set aside with a warning. Raises UserError for one of another format.
    """
    for path in _newest_first(folder):
        if not _is_whole(path):
            damaged = path.with_suffix(".damaged")
            path.replace(damaged)
            log.warning(
                "the checkpoint %s is damaged and set aside as %s: the one before is taken",
                path,
                damaged.name,
            )
            continue
        return load(path)
    return None


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's state, on the CPU; raises UserError where it holds none of this format."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is no checkpoint that can be loaded safely ({type(error).__name__})"
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


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        return actual == _checksum(path).read_text().strip()
    except OSError:
        return False


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*.pt") if path.stem.isdigit()), reverse=True)
