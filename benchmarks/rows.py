"""What is measured, as rows `{name, value, unit}`: their arithmetic, their tables, their file."""

import contextlib
import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gan_lab.errors import UserError
from gan_lab.files import write_json


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured value."""

    name: str
    value: float
    unit: str


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of ours over theirs in one round: a slow moment of the machine meets both."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def read(path: Path) -> list[Row]:
    """The rows of a file that `write` has written; raises UserError where it is none."""
    try:
        content = json.loads(path.read_text())
        rows = content.get("rows", []) if isinstance(content, dict) else content
        return [Row(row["name"], float(row["value"]), row["unit"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no file of benchmark rows ({error}): measure into it first") from error


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write a list of `{name, value, unit}`, whole or not at all.

    In a file that is an object, such as `make gpu`'s, it is `rows`, and what else is there stays.
    """
    listed: Any = [dataclasses.asdict(row) for row in rows]
    with contextlib.suppress(OSError, ValueError):
        if isinstance(content := json.loads(path.read_text()), dict):
            listed = {**content, "rows": listed}
    write_json(path, listed)


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """The new rows in the places of old ones of their names, the others after them."""
    rows = {row.name: row for row in old} | {row.name: row for row in new}
    return list(rows.values())


def line(row: Row, before: Mapping[str, float]) -> str:
    """A row for the terminal, with what changed since `before` (values by name)."""
    text = f"{row.name:<30} {_short(row.value):>10} {row.unit}"
    if row.name not in before:
        return text
    return f"{text:<54} was {_short(before[row.name])}{_change(row.value, before[row.name])}"


def markdown(rows: Iterable[Row], before: Mapping[str, float]) -> str:
    """The rows as a table in Markdown, with a column of what changed if there is a `before`."""
    lines = ["| row | value | unit |", "| --- | ---: | --- |"]
    if before:
        lines = ["| row | value | unit | before |", "| --- | ---: | --- | --- |"]
    for row in rows:
        cells = [f"`{row.name}`", _short(row.value), row.unit]
        if before:
            old = before.get(row.name)
            cells.append("" if old is None else f"{_short(old)}{_change(row.value, old)}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    """Four significant digits, in plain notation where that is short."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}"


def _change(value: float, before: float) -> str:
    return f" ({100 * (value / before - 1):+.1f}%)" if before else ""
