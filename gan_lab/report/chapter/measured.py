"""What was measured by setting, and what of it goes along with the metric that settings are ranked by."""

from dataclasses import dataclass

from gan_lab.report.chapter.study import Figure, Points, Study, metric_names
from gan_lab.report.chapter.words import as_table, average_of, capitalized, image, listed
from gan_lab.report.comparison import is_better_low, title
from gan_lab.report.quantities import QUANTITIES, VARIANCE
from gan_lab.report.runs import setting_keys, settings, value
from gan_lab.report.statistics import LEVEL, Interval, spearman

MOST_COLUMNS = 7  # of a table that is to be read
MEASURED = (
    "Of each run the median over the second half of its training, or the largest of all of it; of layers' "
    "values the geometric mean; here the mean ± standard error over the runs of a setting that finished."
)


@dataclass(frozen=True)
class Correlation:
    """Of a quantity with the distance, over all runs that have both; `apart` if its interval leaves out 0."""

    quantity: str
    runs: int
    rho: float
    interval: Interval | None

    @property
    def is_apart(self) -> bool:
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def every_metric(study: Study) -> tuple[list[str], list[Figure]]:
    metrics = metric_names(study)
    if len(metrics) < 2:
        return [], []
    rows = [
        [group.label, *(average_of(study.values(group.runs, metric)) for metric in metrics)]
        for group in study.table.groups
    ]
    head = [
        "setting",
        *(f"{capitalized(metric)} {'↓' if is_better_low(metric) else '↑'}" for metric in metrics),
    ]
    agree = []
    for metric in metrics[1:]:
        pairs = [
            (facts.metrics[study.metric], facts.metrics[metric])
            for run in study.finished
            if {study.metric, metric} <= (facts := study.facts[run.name]).metrics.keys()
        ]
        found = spearman([x for x, _ in pairs], [y for _, y in pairs], range(len(pairs)))
        if found:
            agree.append(f"{capitalized(metric)} {found[0]:+.2f}")
    words = ["### Every metric", "", *as_table(head, rows)]
    if agree:
        words += ["", f"Rank correlation with {title(study.metric)} over the runs: {', '.join(agree)}."]
    return words, []


def measured_quantities(study: Study) -> tuple[list[str], list[Figure]]:
    """The quantities by setting: what the theory is about."""
    by_quantity: dict[str, list[str]] = {}
    for quantity in QUANTITIES:
        cells = [average_of(study.quantity(group.runs, quantity.title)) for group in study.table.groups]
        if set(cells) != {"–"}:
            by_quantity[quantity.title] = cells
    if not by_quantity:
        return [], []
    labels = [group.label for group in study.table.groups]
    words = ["### What was measured", "", MEASURED, ""]
    for place in range(0, len(by_quantity), MOST_COLUMNS):
        some = list(by_quantity)[place : place + MOST_COLUMNS]
        rows = [[label, *(by_quantity[name][row] for name in some)] for row, label in enumerate(labels)]
        words += [*as_table(["setting", *some], rows), ""]
    return words[:-1], []


def correlations(study: Study) -> list[Correlation]:
    """Spearman's of each quantity with the metric that settings are ranked by, the strongest first."""
    keys = settings(study.runs)
    found = []
    for quantity in QUANTITIES:
        pairs = [
            (
                of_run.quantities[quantity.title],
                of_run.metrics[study.metric],
                tuple(value(run, key) for key in keys),
            )
            for run in study.runs
            if quantity.title in (of_run := study.of(run)).quantities and study.metric in of_run.metrics
        ]
        xs, ys, of_settings = zip(*pairs, strict=True) if pairs else ((), (), ())
        if result := spearman(xs, ys, of_settings, level=1 - (1 - LEVEL) / len(QUANTITIES)):
            found.append(Correlation(quantity.title, len(pairs), *result))
    return sorted(found, key=lambda one: -abs(one.rho))


def what_goes_along(study: Study) -> tuple[list[str], list[Figure]]:
    found = correlations(study)
    if not found:
        return [], []
    apart = [one for one in found if one.is_apart]
    metric = title(study.metric)
    if apart:
        said = [
            f"{one.quantity} ({'rises' if one.rho > 0 else 'falls'} with it, ρ = {one.rho:+.2f})"
            for one in apart
        ]
        sentence = f"Over all runs {listed(said)} {'goes' if len(apart) == 1 else 'go'} along with {metric}."
    elif any(one.interval for one in found):
        sentence = (
            f"Over all runs nothing that was measured goes along with {metric}: every interval holds 0."
        )
    else:
        sentence = (
            "There are too few settings for intervals of these correlations: they are a description only."
        )
    rows = [
        [
            one.quantity,
            f"{one.rho:+.2f}",
            f"[{one.interval[0]:+.2f}, {one.interval[1]:+.2f}]" if one.interval else "–",
            str(one.runs),
        ]
        for one in found
    ]
    drawn = dict.fromkeys([found[0].quantity, *(one.quantity for one in found if one.quantity == VARIANCE)])
    figures = [_scatter(study, quantity, f"along{place or ''}.png") for place, quantity in enumerate(drawn)]
    words = [
        f"### What goes along with {metric}",
        "",
        f"{sentence} Spearman's ρ of each run's last {metric} and the median of its second half of training; "
        "95% bootstrap intervals over settings, for all quantities together (Bonferroni). What goes along is "
        "no cause.",
        "",
        *as_table(["quantity", "ρ", "interval", "runs"], rows),
    ]
    for figure in figures:
        words += ["", image(figure)]
    return words, figures


def _scatter(study: Study, quantity: str, name: str) -> Figure:
    points: Points = {}
    key = next((key for key in setting_keys(study.runs) if key == "norm.name"), None)
    for run in study.finished:
        facts = study.facts[run.name]
        if quantity in facts.quantities and study.metric in facts.metrics:
            label = value(run, key) if key else "all"
            points.setdefault(label, []).append(
                (facts.quantities[quantity], facts.metrics[study.metric], None)
            )
    words = f"{title(study.metric)} of every run over its {quantity}"
    is_size = all(x >= 0 for some in points.values() for x, *_ in some)
    return Figure("scatter", study.name + name, words, quantity, title(study.metric), points, log_x=is_size)
