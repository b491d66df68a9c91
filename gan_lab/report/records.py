"""metrics.jsonl by the column, fast and of any length: DuckDB reads it, NumPy holds it."""

import functools
import glob
import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gan_lab.errors import UserError, first_line

HEAD = 128 * 1024  # bytes that are looked through for names
RARE = (b'"slope/', b'"grad_bound/')  # a name of each kind of row that may come later
METRIC = re.compile(rb'"(metric/[^"\\]*)"')  # each protocol has rows of its own, looked through to the end
LONGEST_LINE = 2**19  # bytes; a longer one is damage
MOST_VALUES = 40_000_000  # held at once, 160 MB; more columns are read in another pass


class Unreadable(UserError):
    """One run's metrics.jsonl cannot be read: the others' may."""


@dataclass(frozen=True)
class Record:
    """Columns of one metrics.jsonl, all `[rows]`: float, NaN where a row has no number under the name."""

    iteration: NDArray[np.int64]
    columns: dict[str, NDArray[np.floating]]
    damaged: int  # lines that could not be read, a last one cut off in writing aside

    @property
    def complaint(self) -> str:
        """What to say of its damage, empty where there is none."""
        lines = "1 line" if self.damaged == 1 else f"{self.damaged} lines"
        return f"{lines} of metrics.jsonl cannot be read" if self.damaged else ""

    @classmethod
    def empty(cls) -> "Record":
        return cls(np.empty(0, np.int64), {}, 0)


def glimpse(path: Path) -> dict[str, float | None]:
    """The metrics' names in a metrics.jsonl, in their order, each with the first number seen under it.

    They are looked for in the beginning, at the end, and where the rare ones come first, those of metrics
    everywhere; without a file there are none. Raises Unreadable where it cannot be read.
    """
    found: dict[str, float | None] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            for line in _some_lines(view):
                for name, value in _row(line).items():
                    if found.get(name) is None and name.lower() != "iteration":
                        found[name] = value if isinstance(value, (int, float)) else None
    except (FileNotFoundError, ValueError):  # ValueError: an empty file
        return {}
    except OSError as error:
        raise _unreadable(path, error) from error
    return found


def _some_lines(view: mmap.mmap) -> Iterator[bytes]:
    yield from view[:HEAD].splitlines()
    for name in RARE:
        if (place := view.find(name)) >= HEAD:
            yield _line_at(view, place)
    seen: set[bytes] = set()
    place = HEAD
    while (place := view.find(b'"metric/', place)) >= 0:
        line = _line_at(view, place)
        if not seen.issuperset(names := METRIC.findall(line)):
            seen.update(names)
            yield line
        if (place := view.find(b"\n", place)) < 0:
            break
    yield from view[max(HEAD, len(view) - HEAD) :].splitlines()


def _line_at(view: mmap.mmap, place: int) -> bytes:
    """The line around this place, empty where it is too long."""
    start = view.rfind(b"\n", 0, place) + 1
    end = view.find(b"\n", place, start + LONGEST_LINE)
    return view[start:end] if end >= 0 else b""


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def last_row(path: Path, holding: bytes = b"") -> dict[str, Any]:
    """The last whole row of a metrics.jsonl that holds these bytes; empty where there is none."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            end = view.rfind(b"\n")
            if holding and (place := view.rfind(holding, 0, max(0, end))) >= 0:
                end = view.find(b"\n", place)
            elif holding:
                return {}
            start = view.rfind(b"\n", 0, max(0, end)) + 1
            return _row(view[start:end]) if end - start <= LONGEST_LINE else {}
    except (OSError, ValueError):
        return {}


def read(path: Path, wanted: Sequence[str]) -> Record:
    """The columns `wanted`, which `glimpse` saw; raises Unreadable, and UserError without duckdb."""
    columns: dict[str, NDArray[np.floating]] = {}
    iteration, damaged = np.empty(0, np.int64), 0
    try:
        if not path.stat().st_size:
            return Record.empty()
        with path.open("rb") as file:
            lines = _estimate_rows(file.read(HEAD), path.stat().st_size)
            file.seek(-1, 2)
            cut_off = file.read(1) != b"\n"
        for some in _passes(wanted, max(1, MOST_VALUES // lines)):
            table = _query(path, some)
            numbers = np.ma.filled(table.pop("iteration"), np.nan)
            good = np.isfinite(numbers)
            if cut_off and len(good):
                good[-1] = False
            damaged = max(0, int((~good).sum()) - cut_off)
            kept = slice(None) if good.all() else good
            iteration = numbers[kept].astype(np.int64)
            columns |= {name: np.ma.filled(column, np.nan)[kept] for name, column in table.items()}
    except OSError as error:
        raise _unreadable(path, error) from error
    if np.any(iteration[1:] < iteration[:-1]):  # not as training writes it
        order = np.argsort(iteration, kind="stable")
        iteration, columns = iteration[order], {name: column[order] for name, column in columns.items()}
    return Record(iteration, {name: columns[name] for name in wanted}, damaged)


def _unreadable(path: Path, error: OSError) -> Unreadable:
    return Unreadable(f"{path} cannot be read ({error.strerror or error}): see to that")


def _estimate_rows(head: bytes, size: int) -> int:
    return max(1, size * max(1, head.count(b"\n")) // len(head))


def _passes(wanted: Sequence[str], most: int) -> Iterator[list[str]]:
    """The names in lots of at most so many; those that differ only by case, which SQL mixes up, separate."""
    left = list(wanted)
    while True:
        lot: dict[str, str] = {}
        for name in left:
            if len(lot) < most:
                lot.setdefault(name.lower(), name)
        yield list(lot.values())
        left = [name for name in left if name not in lot.values()]
        if not left:
            return


def _query(path: Path, some: Sequence[str]) -> dict[str, Any]:
    types = {"iteration": "DOUBLE"} | {name: "DOUBLE" if "metric/" in name else "FLOAT" for name in some}
    selected = ", ".join(f'"{name.replace(chr(34), 2 * chr(34))}"' for name in types)
    schema = ", ".join(f"'{name.replace(chr(39), 2 * chr(39))}': '{kind}'" for name, kind in types.items())
    query = (
        f"SELECT {selected} FROM read_json(?, format='newline_delimited', columns={{{schema}}}, "
        f"ignore_errors=true, maximum_object_size={LONGEST_LINE})"
    )
    connection = _connection()
    import duckdb

    name = os.fsencode(path.absolute()).decode("utf-8", "surrogateescape")  # whatever the locale makes of it
    try:
        table = connection.execute(query, [glob.escape(name)]).fetchnumpy()
    except duckdb.Error as error:
        raise OSError(0, first_line(error)) from error
    return dict(zip(types, table.values(), strict=True))


@functools.cache
def _connection() -> Any:
    """One for all files: its buffers are used again. It never reaches for anything from outside."""
    try:
        import duckdb  # slow to start, and an optional part
    except ImportError as error:
        raise UserError(
            f"reading metrics.jsonl needs duckdb ({error}): pip install -e '.[report]' in gan-lab's folder"
        ) from error
    return duckdb.connect(config={"autoinstall_known_extensions": False, "memory_limit": "1GB"})
