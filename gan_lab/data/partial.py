"""An array that is being written: it grows by rows, and takes its name when it is whole."""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gan_lab.data.recipe import Decoded
from gan_lab.errors import UserError
from gan_lab.files import write_json


class Partial:
    """The rows so far of the array `path`, `[N, 3, H, W]` uint8, N not known yet, in the empty `file`.

    Raises UserError where the disk is full or refuses.
    """

    def __init__(self, path: Path, file: BinaryIO, row_shape: tuple[int, ...]) -> None:
        self.path = path
        self.rows = 0
        self.damaged: list[tuple[str, str]] = []
        self._file = file
        self._row_shape = row_shape
        self._content = hashlib.sha256()
        with self._writing():
            self._file.write(self._header())

    def append(self, chunk: Decoded) -> None:
        """Add the next chunk's rows."""
        pixels = np.ascontiguousarray(chunk.images).data
        self._content.update(pixels)
        self.rows += len(chunk.images)
        self.damaged += chunk.damaged
        with self._writing():
            self._file.write(pixels)

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Give the array its header, its metadata, a report of what was damaged, and its name."""
        with self._writing():
            self._file.seek(0)
            self._file.write(self._header())
            self._file.flush()
            os.fsync(self._file.fileno())
            facts = {"damaged": len(self.damaged), "shape": [self.rows, *self._row_shape]}
            write_json(
                self.path.with_suffix(".json"), {**metadata, **facts, "sha256": self._content.hexdigest()}
            )
            report = self.path.with_suffix(".damaged.json")
            if self.damaged:
                write_json(report, dict(self.damaged))
            else:
                report.unlink(missing_ok=True)
            # The array's name is the last thing to appear: before it, a kill leaves no array.
            _part(self.path).replace(self.path)

    def refuse_if_too_large(self, rows: int) -> None:
        """Raise UserError where the disk has no room for this many rows."""
        missing = rows * int(np.prod(self._row_shape))
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise UserError(
                f"{self.path} needs {missing / 1e9:.3g} GB more and its disk has {free / 1e9:.3g} GB free: "
                "free some, or set paths.data to a larger disk"
            )

    def _header(self) -> bytes:
        """The .npy header; numpy pads it so that its length is the same for any number of rows."""
        text = io.BytesIO()
        shape = (self.rows, *self._row_shape)
        np.lib.format.write_array_header_1_0(text, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return text.getvalue()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): free some space, or set paths.data to "
                "another disk"
            ) from error


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[BinaryIO | None]:
    """An empty file for the array `path`, held by this process only; None if the array is there by now.

    Waits while another process prepares the same array. If the block fails, nothing is left; what a killed
    process leaves, the next one takes over. Raises UserError where nothing can be written at all.
    """
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(part)
    except OSError as error:
        raise UserError(
            f"{part} cannot be written ({error.strerror}): set paths.data to another folder"
        ) from error
    with file:
        if path.exists():
            part.unlink()
            yield None
            return
        for litter in path.parent.glob(f".{path.stem}.*.tmp"):  # of a process killed while it wrote JSON
            litter.unlink()
        file.truncate(0)
        try:
            yield file
        except BaseException:
            for left in (part, path.with_suffix(".json"), path.with_suffix(".damaged.json")):
                left.unlink(missing_ok=True)
            raise


def _part(path: Path) -> Path:
    """Where the rows of an unfinished array lie."""
    return path.with_name(f".{path.name}.part")


def _lock(part: Path) -> BinaryIO:
    """Open and lock `part`. A lock of this kind ends with its process and is not inherited by workers."""
    while True:
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "rb+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process, which writes {part}", file=sys.stderr, flush=True)
            fcntl.lockf(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        file.close()  # meanwhile it was finished or given up: this is no longer the file of that name
