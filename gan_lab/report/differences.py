"""How far each setting of a table is from the best, how surely, and how many seeds would settle it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gan_lab.report.comparison import FINAL, Cell, Group, Table, arrowed, is_better_low
from gan_lab.report.statistics import ALPHA, MOST_SEEDS, Comparison, Interval

NOTE = (
    "{what} of final values to {best}, in pairs by seed: {mean} and effect (Cohen's d of the {pairs}), each "
    "with its 95% bootstrap interval; in how many seeds it is worse; p of the t-test, corrected by Holm; and "
    "where that leaves it open, with how many seeds the corrected test would find it 8 times out of 10."
)


def note(best: str, ratios: bool) -> str:
    """How the table's figures came about."""
    if ratios:
        return NOTE.format(best=best, what="Ratios", mean="geometric mean", pairs="pairs' logarithms")
    return NOTE.format(best=best, what="Differences", mean="mean", pairs="pairs")


@dataclass(frozen=True)
class Differences:
    """A table's first metric, the best group of it, and the others with what tells them from the best."""

    metric: str
    best: Group
    others: list[tuple[Group, Cell]]

    @property
    def ratios(self) -> bool:
        return self.others[0][1].against[0].of_logarithms

    @property
    def note(self) -> str:
        return note(self.best.label, self.ratios)

    @property
    def head(self) -> list[str]:
        what = "ratio" if self.ratios else "difference"
        return ["group", f"{arrowed(self.metric)} {what}", "effect d", "worse in", "p", "seeds"]

    def rows(self) -> list[list[str]]:
        """As text, in the order of the table."""
        return [[group.label, *self._figures(cell.against[0])] for group, cell in self.others]

    def _figures(self, found: Comparison) -> list[str]:
        return [
            apart(found),
            with_interval(found.effect),
            f"{self.worse(found)} of {len(found.differences)}" if found.differences else "–",
            probability(found.corrected),
            seeds(found),
        ]

    def worse(self, found: Comparison) -> int:
        """In how many seeds a group is worse than the best."""
        sign = 1 if is_better_low(self.metric) else -1
        return sum(sign * difference > 0 for difference in found.differences)


def differences(table: Table) -> Differences | None:
    """Of the table's first metric, by its final values; None where nothing is to be compared."""
    if not table.columns:
        return None
    column = (table.columns[0][0], FINAL)
    with_cells = [(group, group.cells[column]) for group in table.groups if column in group.cells]
    others = [(group, cell) for group, cell in with_cells if not cell.is_best]
    best = next((group for group, cell in with_cells if cell.is_best), None)
    return Differences(column[0], best, others) if best and others else None


def apart(found: Comparison) -> str:
    """How far apart: `4.2 [1.1, 7.9]`, or for logarithms as a ratio, `× 1.7 [1.1, 2.4]`."""
    if not found.of_logarithms or found.difference is None:
        return with_interval(found.difference)
    value, interval = found.difference
    low_high = interval and (math.exp(interval[0]), math.exp(interval[1]))
    return f"× {with_interval((math.exp(value), low_high))}"


def with_interval(found: tuple[float, Interval | None] | None) -> str:
    """`4.2 [1.1, 7.9]`."""
    if found is None:
        return "–"
    value, interval = found
    return f"{value:.3g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")


def probability(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < ALPHA else f"{p:.2f}"


def seeds(found: Comparison) -> str:
    """How many it would take, where that is open."""
    if found.corrected is None or found.corrected < ALPHA or not found.differences:
        return "–"
    return f"> {MOST_SEEDS}" if found.seeds_needed is None else str(found.seeds_needed)


def all_differences(tables: Sequence[Table]) -> list[tuple[Table, Differences]]:
    """Of the tables that have any."""
    return [(table, found) for table in tables if (found := differences(table)) is not None]
