"""The prepared form of every dataset: uint8 images `[N, 3, H, W]` in one .npy file, and a .json with it."""

import hashlib
import io
import json
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gan_lab.errors import UserError
from gan_lab.files import replacing, write_json


@dataclass(frozen=True)
class ImageArray:
    """A prepared dataset, in the file `path`.

    `images` is a read-only memory map `[N, 3, H, W]` of uint8; `metadata` says how it was made; `fingerprint`
    is the SHA-256 of the content and the preparation, wherever the raw images lay and however they were
    packed, so that what is cached about one array is never taken for another's.
    """

    path: Path
    images: np.ndarray
    metadata: Mapping[str, Any]
    fingerprint: str
    labels: np.ndarray | None = None  # [N] whole numbers, the images' classes; None without

    def spread(self, count: int) -> np.ndarray:
        """So many images, evenly spaced from the first to the last: all of them where there are fewer."""
        last = len(self.images) - 1
        rows = np.unique(np.linspace(0, last, count).round().astype(int))
        return read_rows(self.images, rows)


def write_array(path: Path, images: np.ndarray, metadata: Mapping[str, Any]) -> ImageArray:
    """Write `images` `[N, 3, H, W]` uint8 to `path` (.npy), whole or not at all, and open them."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images are uint8 [N, 3, H, W], not {images.dtype} {images.shape}")
    return write_chunks(path, images.shape[1:], [images], lambda: metadata)


def write_chunks(
    path: Path,
    shape: tuple[int, ...],
    chunks: Iterable[np.ndarray],
    metadata: Callable[[], Mapping[str, Any]],
) -> ImageArray:
    """Write chunks `[n, *shape]` uint8 to `path` as they come, whole or not at all, and open the array.

    `metadata` is called after the last one; where it raises, nothing is left.
    """
    content, rows = hashlib.sha256(), 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_header(0, shape))
        for chunk in chunks:
            pixels = np.ascontiguousarray(chunk).data
            content.update(pixels)
            file.write(pixels)
            rows += len(chunk)
        facts = {**metadata(), "shape": [rows, *shape], "sha256": content.hexdigest()}
        file.seek(0)
        file.write(_header(rows, shape))
    # The array first: metadata without an array is never seen.
    write_json(path.with_suffix(".json"), facts)
    return open_array(path)


def _header(rows: int, shape: tuple[int, ...]) -> bytes:
    """The .npy header; numpy pads it so that its length is the same for any number of rows."""
    text = io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(text, facts)
    return text.getvalue()


def open_array(path: Path) -> ImageArray:
    """Open a prepared array; raises UserError where it is missing or not what its metadata says."""
    description = path.with_suffix(".json")
    try:
        metadata = json.loads(description.read_text(encoding="utf-8"))
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if list(images.shape) != metadata["shape"] or images.dtype != np.uint8:
            raise ValueError(
                f"shape {list(images.shape)} and type {images.dtype}, expected {metadata['shape']}"
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the prepared array {path} cannot be read ({error}): delete it and {description.name}, and "
            "start again to prepare it anew"
        ) from error
    made = {key: value for key, value in metadata.items() if key not in ("source", "damaged")}
    fingerprint = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return ImageArray(path, images, metadata, fingerprint)


def read_rows(images: np.ndarray, index: np.ndarray) -> np.ndarray:
    """`images[index]` for whole numbers `index` `[B]`; raises IndexError where one lies outside.

    A memory map is read at its rows' positions instead: pages of the map would stay in the resident set, all
    63 GB of ImageNet's in the end. Raises OSError where the file cannot be read.
    """
    index = np.asarray(index)
    if not (isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap)):
        return images[index]
    if index.size and (index.min() < 0 or index.max() >= len(images)):
        raise IndexError(f"rows {index.min()} to {index.max()} of {len(images)}")
    rows = np.empty((len(index), *images.shape[1:]), images.dtype)
    positions = [images.offset + int(number) * rows.strides[0] for number in index]
    descriptor = os.open(images.filename, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):  # the disk may fetch all rows at once and in its own order
            for position in positions:
                os.posix_fadvise(descriptor, position, rows.strides[0], os.POSIX_FADV_WILLNEED)
        for row, position in zip(rows, positions, strict=True):
            if os.preadv(descriptor, [row.reshape(-1).data], position) != row.nbytes:
                raise OSError(f"{images.filename} ends early")
    finally:
        os.close(descriptor)
    return rows
