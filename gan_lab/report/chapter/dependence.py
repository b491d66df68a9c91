"""How the metrics depend on a number that was swept, and what was measured where they are best."""

from collections.abc import Sequence

from gan_lab.report.chapter.study import Figure, Study, metric_names
from gan_lab.report.chapter.words import (
    as_table,
    average_of,
    capitalized,
    direction,
    image,
    line_label,
    listed,
)
from gan_lab.report.comparison import in_logarithms, is_better_low, title
from gan_lab.report.quantities import QUANTITIES
from gan_lab.report.runs import key_name, value
from gan_lab.report.statistics import ALPHA, Mean, all_against, mean
from gan_lab.report.swept import Line, swept
from gan_lab.report.tables import markdown, number

# What is told of each line at its best: the gradient, the weights' variance and what the operators do.
EXPLAINING = ("grad_norm/d", "weight_var_ratio/", "operator_norm/")


def over_numbers(study: Study) -> tuple[list[str], list[Figure]]:
    text: list[str] = []
    figures: list[Figure] = []
    for key, lines in swept(study.runs).items():
        with_figures = [(line, values_over(study, line, study.metric)) for line in lines]
        with_figures = [(line, values) for line, values in with_figures if len(values) > 1]
        if not with_figures:
            continue
        name = key_name(key)
        text += [*([""] if text else []), f"### {title(study.metric)} over {markdown(name)}", ""]
        text += [f"- {_optimum(study, line, values, name)}" for line, values in with_figures]
        figure = Figure(
            "lines",
            f"{study.name}{name.replace('.', '-')}.png",
            f"{title(study.metric)} over {name}: means and standard errors",
            name,
            title(study.metric),
            {
                line_label(line): [(x, m.mean, m.error) for x, one in values.items() if (m := mean_of(one))]
                for line, values in with_figures
            },
            log_x=min(x for _, values in with_figures for x in values) > 0,
        )
        figures.append(figure)
        text += ["", image(figure), "", *_other_metrics(study, with_figures, name)]
        text += _explained(study, with_figures, name)
    return text, figures


Values = dict[float, dict[str, list[float]]]  # by the swept number and the seed


def values_over(study: Study, line: Line, metric: str) -> Values:
    found: Values = {}
    for x, runs in line.points.items():
        for run in runs:
            if metric in (reached := study.of(run).metrics):
                found.setdefault(x, {}).setdefault(value(run, "seed"), []).append(reached[metric])
    return found


def mean_of(by_seed: dict[str, list[float]]) -> Mean | None:
    return mean([x for values in by_seed.values() for x in values])


def _optimum(study: Study, line: Line, values: Values, name: str) -> str:
    """Where a line is best, and which of its other points the noise cannot tell from it."""
    sign = 1 if is_better_low(study.metric) else -1
    means = {x: found for x, by_seed in values.items() if (found := mean_of(by_seed))}
    best = min(means, key=lambda x: sign * means[x].mean)
    others = [x for x in means if x != best]
    ratios = in_logarithms(study.metric, values.values())
    tests = all_against([values[x] for x in others], values[best], ratios)
    ps = [(f"{x:g}", one.corrected) for x, one in zip(others, tests, strict=True)]
    level = [x for x, p in ps if p is not None and p >= ALPHA]
    apart = [x for x, p in ps if p is not None and p < ALPHA]
    untested = [x for x, p in ps if p is None]
    where = f"{line_label(line)}: " if line_label(line) else ""
    optimum = (
        f"{title(study.metric)} is {direction(study.metric)} at {name} = {best:g}, {number(means[best])}"
    )
    said = [where + optimum]
    if apart:
        said.append(f"beyond the noise from {listed(apart)}{f', not from {listed(level)}' if level else ''}")
    elif level and not untested:
        said.append("the noise cannot tell any other value from it: no dependence was found")
    elif level:
        said.append(f"the noise cannot tell {listed(level)} from it")
    if untested:
        said.append("too few seeds for a test" + (f" of {listed(untested)}" if level or apart else ""))
    return markdown(f"{'; '.join(said)}.")


def _other_metrics(study: Study, lines: Sequence[tuple[Line, Values]], name: str) -> list[str]:
    """The value of the swept number at which each other metric is best, by line."""
    metrics = [metric for metric in metric_names(study) if metric != study.metric]
    if not metrics:
        return []
    rows = []
    for line, _ in lines:
        row = [line_label(line) or "all"]
        for metric in [study.metric, *metrics]:
            sign = 1 if is_better_low(metric) else -1
            means = {x: m.mean for x, one in values_over(study, line, metric).items() if (m := mean_of(one))}
            row.append(f"{min(means, key=lambda x, s=sign, m=means: s * m[x]):g}" if means else "–")  # type: ignore[misc]
        rows.append(row)
    head = [f"best {name} by", *(capitalized(metric) for metric in [study.metric, *metrics])]
    return [*as_table(head, rows), ""]


def _explained(study: Study, lines: Sequence[tuple[Line, Values]], name: str) -> list[str]:
    """The quantities at each line's best value: whether lines agree in what was measured there."""
    sign = 1 if is_better_low(study.metric) else -1
    titles = [
        quantity.title for quantity in QUANTITIES if quantity.prefix in EXPLAINING and quantity.is_typical
    ]
    rows = []
    for line, values in lines:
        means = {x: found.mean for x, one in values.items() if (found := mean_of(one))}
        best = min(means, key=lambda x: sign * means[x])
        measured = [average_of(study.quantity(line.points[best], one)) for one in titles]
        rows.append([line_label(line) or "all", f"{best:g}", *measured])
    if all(cell == "–" for row in rows for cell in row[2:]):
        return []
    return [
        f"At its best {markdown(name)} each has (second half of training):",
        "",
        *as_table(["", f"best {name}", *titles], rows),
    ]
