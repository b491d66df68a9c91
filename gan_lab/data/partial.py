"""An array that is being written: it grows by rows, and what it has survives a kill."""

import contextlib
import fcntl
import hashlib
import io
import json
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
    """The rows so far of the array `path`, `[N, 3, H, W]` uint8, N not known yet.

    They lie in `file`, and beside it a journal: a line for what they are made from (`origin`), and one for
    each chunk of rows. Opening it again with the same origin goes on behind the last whole chunk, after
    comparing the SHA-256; otherwise it starts anew. Raises UserError where the disk is full or refuses.
    """

    def __init__(
        self, path: Path, file: BinaryIO, origin: Mapping[str, Any], row_shape: tuple[int, ...]
    ) -> None:
        self.path = path
        self.chunks = self.rows = 0
        self.damaged: list[tuple[str, str]] = []
        self._file = file
        self._origin = dict(origin)
        self._row_shape = row_shape
        self._journal = journal_path(path)
        self._content = hashlib.sha256()
        with self._writing():
            self.resumed = self._resume()
            if not self.resumed:
                self._start()

    def append(self, chunk: Decoded) -> None:
        """Add the next chunk's rows; when this returns, a kill does not lose them."""
        pixels = np.ascontiguousarray(chunk.images).data
        self._content.update(pixels)
        self.chunks += 1
        self.rows += len(chunk.images)
        self.damaged += chunk.damaged
        with self._writing():
            self._file.write(pixels)
            self._file.flush()
            self._note(
                {
                    "chunks": self.chunks,
                    "rows": self.rows,
                    "sha256": self._content.hexdigest(),
                    "damaged": chunk.damaged,
                }
            )

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
            # The array's name is the last thing to appear: before it, a kill leaves something to resume.
            part_path(self.path).replace(self.path)
            self._journal.unlink()

    def refuse_if_too_large(self, rows: int) -> None:
        """Raise UserError where the disk has no room for this many rows in all."""
        missing = (rows - self.rows) * int(np.prod(self._row_shape))
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise UserError(
                f"{self.path} needs {missing / 1e9:.3g} GB more and its disk has {free / 1e9:.3g} GB free: "
                "free some, or set paths.data to a larger disk"
            )

    def _start(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(self._header())
        self._file.flush()
        self._journal.write_text("")
        self._note(self._origin)

    def _resume(self) -> bool:
        """Take over what an earlier process left; False where there is nothing to go on from."""
        origin, *chunks = _whole_lines(self._journal) or [{}]
        if origin != self._origin or not chunks:
            return False
        row = int(np.prod(self._row_shape))
        self._file.seek(len(self._header()))
        content, left = hashlib.sha256(), chunks[-1]["rows"] * row
        while left and (block := self._file.read(min(left, 2**22))):
            content.update(block)
            left -= len(block)
        if content.hexdigest() != chunks[-1]["sha256"]:
            return False
        self._content, self.chunks, self.rows = content, chunks[-1]["chunks"], chunks[-1]["rows"]
        self.damaged = [(name, reason) for chunk in chunks for name, reason in chunk["damaged"]]
        self._file.seek(len(self._header()) + self.rows * row)
        self._file.truncate()
        self._journal.write_text("".join(json.dumps(line) + "\n" for line in [origin, *chunks]))
        return True

    def _header(self) -> bytes:
        """The .npy header; numpy pads it so that its length is the same for any number of rows."""
        text = io.BytesIO()
        shape = (self.rows, *self._row_shape)
        np.lib.format.write_array_header_1_0(text, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return text.getvalue()

    def _note(self, line: Mapping[str, Any]) -> None:
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): free some space, or set paths.data to "
                "another disk"
            ) from error


def part_path(path: Path) -> Path:
    """Where the rows of an unfinished array lie."""
    return path.with_name(f".{path.name}.part")


def journal_path(path: Path) -> Path:
    """Where the journal of an unfinished array lies."""
    return path.with_name(f".{path.name}.journal")


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[BinaryIO | None]:
    """The open file of the unfinished array `path`, held by this process alone; None if it is finished now.

    Waits while another process prepares the same array. If the block raises UserError, nothing is left; if it
    is killed or fails otherwise, what was written is there to go on from. Raises UserError where nothing can
    be written at all.
    """
    part = part_path(path)
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
        for litter in path.parent.glob(
            f".{path.stem}.*.tmp"
        ):  # of a process that was killed while it wrote JSON
            litter.unlink()
        try:
            yield file
        except UserError:
            for left in (
                part,
                journal_path(path),
                path.with_suffix(".json"),
                path.with_suffix(".damaged.json"),
            ):
                left.unlink(missing_ok=True)
            raise


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


def _whole_lines(journal: Path) -> list[dict[str, Any]]:
    """The journal's lines, without one that a kill cut short; none if it is not there or not whole."""
    try:
        text = journal.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    except (FileNotFoundError, ValueError):
        return []
