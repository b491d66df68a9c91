"""Every grouping that the page offers: its groups and its tables, ready to be shown."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from gan_lab.report.comparison import Group, Scores, Table, compare, grouped
from gan_lab.report.runs import Run, differing, in_order, is_number, key_name, settings, value
from gan_lab.report.tables import cells, number, verdict

STATE = "state"  # a run's state, grouped by as if it were a config key
MIXED = "Groups that mix settings, so that their spread is not that of seeds only:"
PART = "Groups of which the filter leaves a part, whose figures are of that part and untested:"


def groupings(runs: Sequence[Run], found: dict[str, Scores], by: Sequence[str] | None) -> dict[str, Any]:
    """`keys` to group, colour and filter by; `default`, the grouping at first; and the `partitions` of both.

    A key and the default give `labels` of groups and the number of a partition, which keys share that part
    the runs in the same way. `by` is the key that is chosen at first, empty for the default.
    """
    differ = [*differing(runs), STATE]
    runs = [dataclasses.replace(run, config={**run.config, STATE: run.state}) for run in runs]
    partitions = _Partitions(runs, found)
    keys = dict.fromkeys([*differ, *(key for run in runs for key in run.config)])
    chosen = settings(runs) if by is None else by
    name = "every setting that differs" if by is None else ", ".join(map(key_name, by))
    return {
        "keys": [_key(runs, key) | partitions.by([key]) | {"differs": key in differ} for key in keys],
        "default": partitions.by(chosen) | {"name": name},
        "by": by[0] if by is not None and len(by) == 1 else "",
        "partitions": partitions.described,
        "words": {"mixed": MIXED, "part": PART},
    }


def _key(runs: Sequence[Run], key: str) -> dict[str, Any]:
    """Its name, its `values` in their order, and which of them each run has: 0 means all the first one."""
    of_runs = [value(run, key) for run in runs]
    known = sorted(set(of_runs), key=in_order)
    return {
        "key": key,
        "name": key_name(key),
        "values": known,
        "indices": [known.index(one) for one in of_runs] if len(known) > 1 else 0,
        "numbers": all(map(is_number, known)),
    }


class _Partitions:
    """Describes each way to part the runs once."""

    def __init__(self, runs: Sequence[Run], found: dict[str, Scores]) -> None:
        self.described: list[dict[str, Any]] = []
        self._runs, self._found = runs, found
        self._place = {run.name: place for place, run in enumerate(runs)}
        self._known: dict[tuple[tuple[int, ...], ...], int] = {}

    def by(self, keys: Sequence[str]) -> dict[str, Any]:
        groups = grouped(self._runs, keys)
        parts = tuple(tuple(self._place[run.name] for run in some) for _, some in groups)
        if parts not in self._known:
            self._known[parts] = len(self.described)
            self.described.append(self._describe(parts, keys))
        return {"labels": [words for words, _ in groups], "partition": self._known[parts]}

    def _describe(self, parts: Sequence[tuple[int, ...]], keys: Sequence[str]) -> dict[str, Any]:
        group_of = {self._runs[run].name: place for place, part in enumerate(parts) for run in part}
        mixes = [settings([self._runs[run] for run in part]) for part in parts]
        return {
            "groups": [
                [part, ", ".join(map(key_name, mixed))] for part, mixed in zip(parts, mixes, strict=True)
            ],
            "tables": [self._table(table, group_of) for table in compare(self._runs, self._found, keys)],
        }

    def _table(self, table: Table, group_of: dict[str, int]) -> dict[str, Any]:
        """A row is `[number of its group, its runs, those that its figures are of, its cells]`."""
        head, body = cells(table)
        return {
            "title": table.title,
            "head": head,
            "columns": table.columns,
            "rows": [
                [
                    group_of[group.runs[0].name],
                    [self._place[run.name] for run in group.runs],
                    [self._place[run.name] for run in group.runs if run.finished],
                    [
                        row[1],
                        *(_figure(group, column) for column in table.columns),
                        *row[2 + len(table.columns) :],
                    ],
                ]
                for group, row in zip(table.groups, body, strict=True)
            ],
        }


def _figure(group: Group, column: tuple[str, str]) -> list[Any]:
    """`[figure, verdicts against the better groups, the best first]`; of a group without a figure, `[–]`."""
    cell = group.cells.get(column)
    return [number(cell.mean), [verdict(one.corrected) for one in cell.against]] if cell else ["–"]
