"""Arrays on disk under a key of everything that they depend on: what is stale or damaged is never used."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gan_lab.files import replacing

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def location(folder: Path, kind: str, key: Mapping[str, Any]) -> Path:
    """The file of `kind` under this key; every difference of the key is another file."""
    return folder / f"{kind}-{hashlib.sha256(_text(key).encode()).hexdigest()[:16]}.npz"


def load(folder: Path, kind: str, key: Mapping[str, Any]) -> Arrays | None:
    """The arrays that were stored under this key, or None; with a warning where they are damaged."""
    path = location(folder, kind, key)
    if not path.exists():
        return None
    try:
        # A zip file: reading it checks each array's CRC.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        if str(arrays.pop("key")) != _text(key):
            raise ValueError("it was made for something else")
    except Exception as error:  # a damaged file can fail in any way
        log.warning("the cache %s cannot be used (%s): it is computed anew", path, error)
        return None
    return arrays


def store(folder: Path, kind: str, key: Mapping[str, Any], arrays: Arrays) -> Path:
    """Write the arrays whole or not at all; a process that does the same at the same time does no harm."""
    path = location(folder, kind, key)
    content: dict[str, Any] = {"key": np.array(_text(key)), **arrays}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **content)
    return path


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
