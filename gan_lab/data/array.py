"""The prepared form of every dataset: uint8 images `[N, 3, H, W]` in one .npy file, and a .json beside it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gan_lab.errors import UserError
from gan_lab.files import replacing, write_json


@dataclass(frozen=True)
class ImageArray:
    """A prepared dataset.

    `images` is a read-only memory map `[N, 3, H, W]` of uint8; `metadata` says how it was made; `fingerprint`
    is the SHA-256 of the content and the metadata, so that what is cached about one array is never taken for
    another's.
    """

    images: np.ndarray
    metadata: Mapping[str, Any]
    fingerprint: str


def write_array(path: Path, images: np.ndarray, metadata: Mapping[str, Any]) -> ImageArray:
    """Write `images` `[N, 3, H, W]` uint8 to `path` (.npy), whole or not at all, and open them."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images are uint8 [N, 3, H, W], not {images.dtype} {images.shape}")
    images = np.ascontiguousarray(images)
    content = hashlib.sha256(images.data).hexdigest()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, images)
    # The array first: metadata without an array is never seen.
    write_json(path.with_suffix(".json"), {**metadata, "shape": list(images.shape), "sha256": content})
    return open_array(path)


def open_array(path: Path) -> ImageArray:
    """Open a prepared array; raises UserError where it is missing or not what its metadata says."""
    description = path.with_suffix(".json")
    try:
        metadata = json.loads(description.read_text(encoding="utf-8"))
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if list(images.shape) != metadata["shape"] or images.dtype != np.uint8:
            raise ValueError(f"shape {list(images.shape)} and type {images.dtype}, expected {metadata['shape']}")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the prepared array {path} cannot be read ({error}): delete it and {description.name}, and start "
            "again to prepare it anew"
        ) from error
    fingerprint = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
    return ImageArray(images, metadata, fingerprint)
