"""Which settings were swept over numbers, and the lines that the runs make over each."""

from collections.abc import Sequence
from dataclasses import dataclass

from gan_lab.report.runs import (
    AXIS_KEYS,
    Run,
    is_number,
    label,
    natural,
    setting_keys,
    settings,
    value,
    values,
)


@dataclass(frozen=True)
class Line:
    """Runs that differ in one number and the seed only: by the number, ascending, those that have it."""

    label: str
    points: dict[float, list[Run]]


def swept(runs: Sequence[Run]) -> dict[str, list[Line]]:
    """By each key that was swept over numbers, its lines; of keys that say the same, the first only."""
    found: dict[str, list[Line]] = {}
    for key in setting_keys(runs):
        are_numbers = all(is_number(text) or text == "–" for text in (value(run, key) for run in runs))
        if not are_numbers or any(_say_the_same(runs, key, other) for other in found):
            continue
        if lines := _lines(runs, key):
            found[key] = lines
    return found


def _lines(runs: Sequence[Run], key: str) -> list[Line]:
    keys = _settings_next_to(runs, key)
    members: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if is_number(value(run, key)):
            members.setdefault(values(run, keys), []).append(run)
    lines = []
    for some in members.values():
        points: dict[float, list[Run]] = {}
        for run in sorted(some, key=lambda run: float(value(run, key))):
            points.setdefault(float(value(run, key)), []).append(run)
        if len(points) > 1:
            lines.append(Line(label(some[0], keys), points))
    return sorted(lines, key=lambda line: natural(line.label))


def _settings_next_to(runs: Sequence[Run], key: str) -> list[str]:
    """The other settings that tell lines over `key` apart, without those that only follow from its value."""

    def follows(other: str) -> bool:
        of_one_axis = key.partition(".")[0] == other.partition(".")[0] and other not in AXIS_KEYS
        return _say_the_same(runs, key, other) or (of_one_axis and len(settings(runs, [key, other])) < 2)

    return settings(runs, [other for other in setting_keys(runs) if other != key and not follows(other)])


def _say_the_same(runs: Sequence[Run], key: str, other: str) -> bool:
    return all(value(run, key) == value(run, other) for run in runs)
