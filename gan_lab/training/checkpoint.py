"""Training states on disk: written whole, loaded without running code."""

import logging
from pathlib import Path
from typing import Any

import torch

from gan_lab.files import replacing

log = logging.getLogger(__name__)

FORMAT = 1  # raised when a checkpoint's content changes its meaning
KEEP_ROLLING = 2  # the newest, and the one before should the newest turn out damaged


def save(folder: Path, iteration: int, state: dict[str, Any], keep_every: int) -> Path:
    """Write `folder/<iteration>.pt`, then drop older rolling ones; multiples of `keep_every` stay for good."""
    path = folder / f"{iteration:08d}.pt"
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, "iteration": iteration, **state}, temporary)
    rolling = [old for old in _newest_first(folder) if int(old.stem) % keep_every]
    for old in rolling[KEEP_ROLLING:]:
        old.unlink()
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the CPU; None where there is none."""
    for path in _newest_first(folder):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            damaged = path.with_suffix(".damaged")
            path.rename(damaged)
            log.warning("the checkpoint %s cannot be read (%s): set aside as %s", path, error, damaged.name)
            continue
        if state.get("format") == FORMAT:
            return state
        log.warning("the checkpoint %s has format %s, not %d: left out", path, state.get("format"), FORMAT)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*.pt") if path.stem.isdigit()), reverse=True)
