"""What a choice forgives: how each does over a grid of other settings, such as learning rates."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean, stdev

from gan_lab.report.chapter.ranking import verdicts
from gan_lab.report.chapter.study import Figure, Study
from gan_lab.report.chapter.words import as_table, counted, direction, image, listed
from gan_lab.report.comparison import in_logarithms, is_better_low, title
from gan_lab.report.runs import AXIS_KEYS, Run, key_name, settings, value, values
from gan_lab.report.statistics import Mean, all_against, mean
from gan_lab.report.tables import markdown, number

LEAST = 4  # settings that make a grid

Place = tuple[str, ...]  # a setting of all but the choice
BySeed = dict[str, dict[Place, float]]


def over_a_grid(study: Study) -> tuple[list[str], list[Figure]]:
    """The average and the spread of the metric over the settings that all choices of the first axis have.

    Of distances, geometric ones. By seed, of the seeds that have all of the grid; a choice of which a run
    diverged there has none.
    """
    keys = settings(study.runs)
    axis = next((key for key in keys if key in AXIS_KEYS), None)
    others = [key for key in keys if key != axis]
    if axis is None or not others:
        return [], []
    members: dict[str, dict[Place, list[Run]]] = {}
    for run in study.runs:
        members.setdefault(value(run, axis), {}).setdefault(values(run, others), []).append(run)
    grid = sorted(set.intersection(*map(set, members.values())))
    if len(members) < 2 or len(grid) < LEAST:
        return [], []
    choices = {
        choice: _Choice(study, [run for place in grid for run in places[place]], others, len(grid))
        for choice, places in sorted(members.items())
    }
    over = f"{len(grid)} settings of {listed([markdown(key_name(key)) for key in others])}"
    text = [
        f"### What each {markdown(key_name(axis))} forgives",
        "",
        _sentences(study.metric, choices, over),
        "",
    ]
    head = [key_name(axis), "seeds", "average", "spread", "best", "worst", "diverged"]
    text += as_table(head, [[name, *choice.cells] for name, choice in choices.items()])
    text += ["", f"{title(study.metric)} over {over}: {_EXPLAINED[is_better_low(study.metric)]}"]
    figure = Figure(
        "grid" if is_better_low(study.metric) else "settings",
        f"{study.name}grid.png",
        f"{title(study.metric)} of every setting of the grid, means over seeds",
        "",
        title(study.metric),
        {name: [(0.0, x, None) for x in choice.means] for name, choice in choices.items() if choice.means},
    )
    return [*text, "", image(figure)], [figure]


_EXPLAINED = {
    True: "the geometric mean of each seed, and the factor that is one standard deviation of its logarithms "
    "(means over the seeds); the best and the worst setting, means over seeds.",
    False: "the mean of each seed and its standard deviation (means over the seeds); the best and the worst "
    "setting, means over seeds.",
}


class _Choice:
    """A choice of the axis over the grid."""

    def __init__(self, study: Study, runs: Sequence[Run], others: Sequence[str], size: int) -> None:
        found: BySeed = {}
        for run in runs:
            if study.metric in (reached := study.of(run).metrics):
                found.setdefault(value(run, "seed"), {})[values(run, others)] = reached[study.metric]
        places = sorted({place for by_place in found.values() for place in by_place})
        self.runs = len(runs)
        self.diverged = sum(run.diverged for run in runs)
        self.means = [fmean(by[place] for by in found.values() if place in by) for place in places]
        whole = {} if self.diverged else {seed: by for seed, by in found.items() if len(by) == size}
        by_seed = {seed: [*by.values()] for seed, by in whole.items()}
        self.is_ratio = in_logarithms(study.metric, [by_seed])
        self.averages = {seed: [self._average(xs)] for seed, xs in by_seed.items()}
        self.spread = mean([self._spread(xs) for xs in by_seed.values()])
        self.ends = (min, max) if is_better_low(study.metric) else (max, min)

    def _average(self, xs: Sequence[float]) -> float:
        return geometric_mean(xs) if self.is_ratio else fmean(xs)

    def _spread(self, xs: Sequence[float]) -> float:
        return math.exp(stdev(map(math.log, xs))) if self.is_ratio else stdev(xs)

    @property
    def average(self) -> Mean | None:
        return mean([x for xs in self.averages.values() for x in xs])

    @property
    def cells(self) -> list[str]:
        spread = f"{'× ' if self.is_ratio else ''}{number(self.spread)}" if self.spread else "–"
        ends = [f"{end(self.means):.4g}" if self.means else "–" for end in self.ends]
        average = number(self.average) if self.average else "–"
        return [f"{len(self.averages)}", average, spread, *ends, f"{self.diverged} of {self.runs}"]


def _sentences(metric: str, choices: Mapping[str, _Choice], over: str) -> str:
    averages = {name: average for name, choice in choices.items() if (average := choice.average)}
    said = []
    if averages:
        sign = 1 if is_better_low(metric) else -1
        best = min(averages, key=lambda name: sign * averages[name].mean)
        others = [name for name in averages if name != best]
        by_seed = {name: choices[name].averages for name in averages}
        ratios = in_logarithms(metric, by_seed.values())
        tests = all_against([by_seed[name] for name in others], by_seed[best], ratios)
        said.append(
            f"Over {over}, **{markdown(best)}** has the {direction(metric)} average {title(metric)}: "
            f"{number(averages[best])} ({counted(averages[best].n, 'seed')}). "
            f"{verdicts([*zip(others, tests, strict=True)])}".rstrip()
        )
        spreads = {name: spread for name in averages if (spread := choices[name].spread)}
        least = min(spreads, key=lambda name: spreads[name].mean)
        times = "× " if choices[least].is_ratio else ""
        said.append(f"The smallest spread is that of {markdown(least)}: {times}{number(spreads[least])}.")
    for name, choice in choices.items():
        if choice.diverged:
            said.append(f"{markdown(name)} diverged in {choice.diverged} of {choice.runs} runs: no average.")
        elif name not in averages:
            said.append(f"{markdown(name)} has no seed with all of these settings.")
    return " ".join(said)
