"""metrics.jsonl: the local record, one JSON object a line, always written."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LATER = "recorded_later"  # marks a row of `append`


class JsonLines:
    """Appends `{"iteration": k, name: value, ...}` lines; each is on its way to the disk when `log` returns.

    Opening cuts off what came after `length` bytes: the record of iterations that a crash lost, which are run
    again; and a line that a crash left unfinished. Figures that were recorded later (see `append`) stay, if
    they are of an iteration up to `iteration`. Numbers that JSON cannot write (NaN, ±infinity) are null.
    """

    def __init__(self, path: Path, length: int = 0, iteration: int = 0) -> None:
        self._file = path.open("a+b")
        self._file.seek(0)
        kept = self._file.read(length)
        lines = self._file.read().splitlines(keepends=True)
        self._file.truncate(kept.rfind(b"\n") + 1)
        self._file.writelines(line for line in lines if _is_recorded_later(line, iteration))
        self._file.flush()

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._file.write(_line(iteration, values))
        self._file.flush()

    def log_samples(self, iteration: int, grid: Path) -> None:
        """Sample grids are files of their own."""

    def length(self) -> int:
        """The bytes that are on the disk, which a checkpoint remembers."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.seek(0, 2)

    def finish(self, state: str) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk has stopped the run already
            self._file.close()


def append(path: Path, iteration: int, values: Mapping[str, float]) -> None:
    """Add figures of an iteration to a run's record after its training; for the owner of the run's lock."""
    whole = path.stat().st_size if path.exists() else 0
    record = JsonLines(path, whole)  # cuts off a line that a crash left unfinished
    try:
        record.log(iteration, {**values, LATER: 1})
    finally:
        record.close()


def _line(iteration: int, values: Mapping[str, float]) -> bytes:
    row = {"iteration": iteration, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
    return json.dumps(row).encode() + b"\n"


def _is_recorded_later(line: bytes, iteration: int) -> bool:
    """Whether a line is one of `append`'s, of an iteration up to this one."""
    if LATER.encode() not in line or not line.endswith(b"\n"):
        return False
    row = json.loads(line)
    return LATER in row and row["iteration"] <= iteration


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics.jsonl, oldest first; a last line cut off in writing is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
