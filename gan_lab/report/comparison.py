"""Groups of runs side by side: seeds, means, what is best, and what the noise cannot tell from it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gan_lab.report import records
from gan_lab.report.records import Record
from gan_lab.report.runs import (
    Damaged,
    Run,
    in_order,
    label,
    protocol,
    setting_keys,
    settings,
    text,
    value,
    values,
)
from gan_lab.report.statistics import ALPHA, Comparison, Mean, all_against, mean
from gan_lab.runs.directory import FAILED

STEP_TIME = "speed/step_ms"
FINAL, BEST = "final", "best"


@dataclass(frozen=True)
class Scores:
    """What one run reached: by metric, the last value and the best of so many; and its hours of training."""

    final: dict[str, float]
    best: dict[str, float]
    hours: float | None
    evaluations: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One figure of one group: its mean, whether it is the best of all, and how it compares with the better.

    `against` has a comparison with each group that is better, the best first: what there is to say where
    better ones are left out. `by_seed` are the values that the mean is of.
    """

    mean: Mean
    is_best: bool = False
    against: tuple[Comparison, ...] = ()
    by_seed: dict[str, list[float]] = field(default_factory=dict)

    @property
    def p(self) -> float | None:
        """Of the test against the best, corrected; None for the best itself, and with too few seeds."""
        return self.against[0].corrected if self.against else None

    @property
    def in_noise(self) -> bool:
        return self.p is not None and self.p >= ALPHA


@dataclass
class Group:
    """Runs of one setting, or of one value that a person chose to group by."""

    label: str
    values: tuple[str, ...]  # at the keys of the grouping
    runs: list[Run]
    mixes: list[str]  # the settings that differ within, the seed aside
    hours: Mean | None = None
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)  # by metric, and FINAL or BEST

    @property
    def finished(self) -> int:
        return sum(run.finished for run in self.runs)

    @property
    def diverged(self) -> int:
        return sum(run.diverged for run in self.runs)

    @property
    def failed(self) -> int:
        return sum(run.state == FAILED for run in self.runs)

    @property
    def others(self) -> int:
        """Those under way, interrupted or of unknown state."""
        return sum(not run.finished and not run.diverged and run.state != FAILED for run in self.runs)

    @property
    def seeds(self) -> int:
        """How many seeds its means are over."""
        return len({text(run.config.get("seed")) for run in self.runs if run.finished})


@dataclass(frozen=True)
class Table:
    """Groups whose metrics may be compared: the same real images, judged in the same way."""

    title: str  # what tells this table's data and protocol from another's
    groups: list[Group]
    columns: list[tuple[str, str]]  # metric, and FINAL or BEST


def metrics(names: Iterable[str]) -> list[str]:
    """FID, other Fréchet distances (FD) and IS among metrics' names: each protocol's is another metric."""
    names = list(names)
    fids = [name for name in names if f"{name}_".startswith(("metric/fid_", "metric/fd_"))]
    scores = [name for name in names if name.startswith("metric/is_") and name.endswith("_mean")]
    return sorted(fids, key=len) + sorted(scores, key=len)


def measured(found: Iterable[Scores]) -> list[str]:
    """The metrics that the runs have, FID before IS; of each first what most runs have, and most often."""
    runs, evaluations = Counter[str](), Counter[str]()
    for reached in found:
        runs.update(reached.best.keys())
        evaluations.update(reached.evaluations)
    used = sorted(metrics(runs), key=lambda name: (-runs[name], -evaluations[name]))
    return sorted(used, key=is_better_low, reverse=True)


def is_better_low(metric: str) -> bool:
    return metric.startswith(("metric/fid", "metric/fd", "metric/kid"))


def in_logarithms(metric: str, settings: Iterable[Mapping[str, Sequence[float]]]) -> bool:
    """Whether values by seed are compared by ratios: distances, if all are positive (KID's may not be)."""
    values = (value for by_seed in settings for some in by_seed.values() for value in some)
    return is_better_low(metric) and all(value > 0 for value in values)


def arrowed(metric: str) -> str:
    """Its title with an arrow to where it is better: FID ↓."""
    return f"{title(metric)} {'↓' if is_better_low(metric) else '↑'}"


def title(metric: str) -> str:
    """`metric/is_digits_mean` as people say it: IS digits."""
    kind, _, rest = metric.removeprefix("metric/").removesuffix("_mean").partition("_")
    return f"{kind.upper()} {rest.replace('_', ' ')}".strip()


def scores(record: Record) -> Scores:
    """What a run's record says of FID and IS, and the time between its rows, metrics and samples aside."""
    final, best, evaluations = {}, {}, {}
    for metric in metrics(record.columns):
        column = record.columns[metric]
        there = column[np.isfinite(column)]
        if not len(there):
            continue
        best[metric] = float(there.min() if is_better_low(metric) else there.max())
        final[metric] = float(there[-1])
        evaluations[metric] = len(there)
    hours = None
    if STEP_TIME in record.columns:
        milliseconds = record.columns[STEP_TIME].astype(np.float64)
        timed = np.isfinite(milliseconds)
        steps = np.diff(record.iteration[timed], prepend=0)
        hours = float(steps @ milliseconds[timed]) / 3.6e6 if timed.any() else None
    return Scores(final, best, hours, evaluations)


def read_scores(runs: Sequence[Run]) -> tuple[dict[str, Scores], list[Damaged]]:
    """The scores of each run, by its name, and what could not be read."""
    found: dict[str, Scores] = {}
    damaged: list[Damaged] = []
    for run in runs:
        try:
            names = records.glimpse(run.directory.metrics)
            wanted = [*metrics(names), *(name for name in names if name == STEP_TIME)]
            if not wanted:
                continue
            record = records.read(run.directory.metrics, wanted)
        except records.Unreadable as error:
            damaged.append(Damaged(run.name, str(error)))
            continue
        if record.complaint:
            damaged.append(Damaged(run.name, record.complaint))
        found[run.name] = scores(record)
    return found, damaged


def compare(runs: Sequence[Run], found: dict[str, Scores], by: Sequence[str] | None) -> list[Table]:
    """One table for each data set and protocol of judging; `by` is None for every setting that differs."""
    return [
        Table(words, *_compare(members, found, settings(members) if by is None else by))
        for words, members in by_protocol(runs)
    ]


def by_protocol(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """The runs parted by what they may be compared on, each part with the words that tell it apart."""
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(repr(protocol(run)), []).append(run)
    if len(parts) == 1:
        return [("", list(runs))]
    keys = [key for key in setting_keys(runs) if key in protocol(runs[0])]
    return [(label(members[0], settings(runs, keys)), members) for members in parts.values()]


def grouped(runs: Sequence[Run], by: Sequence[str]) -> list[tuple[str, list[Run]]]:
    """The runs that agree in these keys, with what to call them, in the order of their values."""
    members: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        members.setdefault(values(run, by), []).append(run)
    in_their_order = sorted(members.items(), key=lambda item: [in_order(part) for part in item[0]])
    return [(label(some[0], by), some) for _, some in in_their_order]


def _compare(
    runs: Sequence[Run], found: dict[str, Scores], by: Sequence[str]
) -> tuple[list[Group], list[tuple[str, str]]]:
    groups = [Group(words, values(some[0], by), some, settings(some)) for words, some in grouped(runs, by)]
    known = measured(found[run.name] for run in runs if run.name in found)
    columns = [(metric, which) for metric in known for which in (FINAL, BEST)]
    for group in groups:
        times = [found[run.name].hours for run in group.runs if run.finished and run.name in found]
        group.hours = mean([hours for hours in times if hours is not None])
    for metric, which in columns:
        _judge(groups, found, metric, which)
    return groups, columns


def _judge(groups: Sequence[Group], found: dict[str, Scores], metric: str, which: str) -> None:
    """Fill in one column: each group's mean, the best, and the tests against those that are better."""
    reached: list[tuple[Group, dict[str, list[float]], Mean]] = []
    for group in groups:
        by_seed: dict[str, list[float]] = {}
        for run in group.runs:
            if run.finished and run.name in found and metric in (of_run := getattr(found[run.name], which)):
                by_seed.setdefault(value(run, "seed"), []).append(of_run[metric])
        if average := mean([number for numbers in by_seed.values() for number in numbers]):
            reached.append((group, by_seed, average))
    sign = 1 if is_better_low(metric) else -1
    reached.sort(key=lambda entry: sign * entry[2].mean)
    by_seeds = [by_seed for _, by_seed, _ in reached]
    ratios = in_logarithms(metric, by_seeds)
    tests = [all_against(by_seeds[place + 1 :], better, ratios) for place, better in enumerate(by_seeds)]
    for place, (group, by_seed, average) in enumerate(reached):
        with_better = tuple(tests[other][place - other - 1] for other in range(place))
        is_best = place == 0 and len(reached) > 1
        group.cells[metric, which] = Cell(average, is_best, with_better, by_seed)
