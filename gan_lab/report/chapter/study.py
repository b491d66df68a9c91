"""What a chapter is of: its runs, what is known of each, and what is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from gan_lab.report.comparison import Table, is_better_low
from gan_lab.report.quantities import Facts
from gan_lab.report.runs import Run

Points = dict[str, list[tuple[float, float, float | None]]]


@dataclass(frozen=True)
class Figure:
    """What `gan_lab.report.chapter.figures` draws: its `kind`, its file, its words, and its points.

    `lines` and `scatter` are over x; `settings` has a column of points for each label and their mean, `grid`
    their geometric mean. `points` are by label; each is `(x, y, error of y or None)`.
    """

    kind: str
    name: str
    words: str
    x: str
    y: str
    points: Points
    log_x: bool = False


@dataclass(frozen=True)
class Chapter:
    """Markdown with the figures' names in it, the figures, and the runs whose samples are shown, labelled."""

    markdown: str
    figures: list[Figure]
    samples: list[tuple[str, Run]]


@dataclass(frozen=True)
class Study:
    """Runs that may be compared with each other, and their table."""

    runs: Sequence[Run]  # judged on the same real images
    facts: dict[str, Facts]
    table: Table
    name: str  # begins the names of its figures

    @property
    def metric(self) -> str:
        """The one that settings are ranked by."""
        return self.table.columns[0][0]

    def values(self, runs: Sequence[Run], metric: str) -> list[float]:
        """The last values of a metric, of those of these runs that finished and have one."""
        return [found[metric] for run in runs if metric in (found := self.of(run).metrics)]

    def quantity(self, runs: Sequence[Run], title: str) -> list[float]:
        """Likewise of what was measured inside the networks."""
        return [found[title] for run in runs if title in (found := self.of(run).quantities)]

    def of(self, run: Run) -> Facts:
        """What is known of a run that finished; of others nothing."""
        return self.facts.get(run.name, Facts()) if run.finished else Facts()

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished and run.name in self.facts]


def metric_names(study: Study) -> list[str]:
    """All that were measured, the distances first, and first the one that settings are ranked by."""
    names = dict.fromkeys(name for run in study.finished for name in study.facts[run.name].metrics)
    return sorted(names, key=lambda name: (not is_better_low(name), name != study.metric))
