"""What a sweep says, as a chapter: sentences, tables and figures that are made from its numbers only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gan_lab.report import quantities
from gan_lab.report.comparison import (
    FINAL,
    Cell,
    Group,
    Table,
    by_protocol,
    compare,
    grouped,
    in_logarithms,
    is_better_low,
    read_scores,
    title,
)
from gan_lab.report.differences import differences, probability, seeds
from gan_lab.report.quantities import QUANTITIES, Facts
from gan_lab.report.runs import Damaged, Run, key_name, passed_over, setting_keys, settings, value
from gan_lab.report.statistics import ALPHA, LEVEL, Comparison, Interval, Mean, against, holm, mean, spearman
from gan_lab.report.swept import Line, swept
from gan_lab.report.tables import as_markdown, markdown, markdown_row, number

MOST_NAMED = 6  # settings in a sentence


Points = dict[str, list[tuple[float, float, float | None]]]


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


@dataclass(frozen=True)
class Figure:
    """What `gan_lab.report.chapter_figures` draws: its `kind`, its file, its words, and its points.

    `points` are by label; each is `(x, y, error of y or None)`.
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
class _Study:
    runs: Sequence[Run]  # judged on the same real images
    facts: dict[str, Facts]
    table: Table
    name: str  # begins the names of its figures

    @property
    def metric(self) -> str:
        """The one that settings are ranked by."""
        return self.table.columns[0][0]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished and run.name in self.facts]


def write(runs: Sequence[Run], damaged: Sequence[Damaged], heading: str, page: str = "") -> Chapter:
    """The chapter about these runs; `page` is where the comparison page lies, as the chapter links to it."""
    found, unread = read_scores(runs)
    facts, _ = quantities.read(runs)
    lines = [f"# {_text(heading)}", "", _about(runs)]
    lines += ["", f"[The comparison page]({page}) has every curve of these runs."] if page else []
    figures: list[Figure] = []
    samples: list[tuple[str, Run]] = []
    troubles = [*damaged, *unread]
    for place, (words, members) in enumerate(by_protocol(runs)):
        (table,) = compare(members, found, settings(members)) or [Table(words, [], [])]
        study = _Study(members, facts, table, f"{place}-" if place else "")
        lines += ["", f"## {_text(words)}"] if words else []
        if not table.columns:
            lines += ["", "No run that finished has a distance (FID, FD) or an IS: there is nothing to rank."]
            continue
        for part in (_best, _scales, _all_metrics, _audits, _correlations):
            text, drawn = part(study)
            lines += ["", *text] if text else []
            figures += drawn
        if shown := _samples(study):
            samples += shown
        lines += ["", *_open(study)]
    if samples:
        names = ", ".join(f"{_text(label)}" for label, _ in samples)
        lines += ["", "## Samples", "", f"From the same latents, left to right and down: {names}.", ""]
        lines += ["![samples of one run of each setting](samples.png)"]
    if troubles:
        lines += ["", "## What could not be read", ""]
        lines += [f"- {_text(trouble.name)}: {_text(trouble.reason)}" for trouble in troubles]
    if copies := passed_over(runs):
        lines += ["", _text(copies)]
    return Chapter("\n".join(lines) + "\n", figures, samples)


def _about(runs: Sequence[Run]) -> str:
    groups = grouped(runs, settings(runs))
    counts = {
        "finished": sum(run.finished for run in runs),
        "diverged": sum(run.diverged for run in runs),
    }
    counts["are not finished or failed"] = len(runs) - sum(counts.values())
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    swept_keys = [key_name(key) for key in settings(runs)]
    over = f" over {_list(swept_keys)}" if swept_keys else ""
    return f"{_count(len(runs), 'run')} of {_count(len(groups), 'setting')}{_text(over)}: {states}."


# --- which setting is best


def _best(study: _Study) -> tuple[list[str], list[Figure]]:
    words = ["### Which setting is best", ""]
    found = differences(study.table)
    column = (study.metric, FINAL)
    if found is None:
        (group,) = (group for group in study.table.groups if column in group.cells)
        only = number(group.cells[column].mean)
        words += [
            f"Only {_text(group.label)} has a {title(study.metric)}, {only}: there is nothing to compare."
        ]
        return [*words, "", as_markdown([study.table]).strip()], []
    best = found.best.cells[column].mean
    words += [
        f"**{_text(found.best.label)}** has the {_direction(study.metric)} {title(study.metric)}: "
        f"{number(best)} (mean{' ± standard error' if best.error is not None else ''} of "
        f"{_count(best.n, 'run')}). {_verdicts(found.others)}"
    ]
    groups = [group for group in study.table.groups if column in group.cells]
    points: Points = {
        group.label: [(0.0, x, None) for xs in group.cells[column].by_seed.values() for x in xs]
        for group in groups
    }
    figure = Figure(
        "settings",
        f"{study.name}settings.png",
        "Every run that finished, and the means",
        "",
        title(study.metric),
        points,
    )
    return [*words, "", as_markdown([study.table]).strip(), "", _image(figure)], [figure]


def _verdicts(others: Sequence[tuple[Group, Cell]]) -> str:
    comparisons = [(group.label, cell.against[0]) for group, cell in others]
    worse = [label for label, one in comparisons if one.corrected is not None and one.corrected < ALPHA]
    level = [label for label, one in comparisons if one.corrected is not None and one.corrected >= ALPHA]
    untested = [label for label, one in comparisons if one.corrected is None]
    sentences = []
    if worse:
        sentences.append(f"It is ahead of {_named(worse)} by more than the noise.")
    if level:
        sentences.append(f"From {_named(level)} the noise cannot tell it.")
    if untested:
        sentences.append(f"{_named(untested)} {_have(untested)} too few seeds for a test.")
    if level and not worse:
        sentences.append("No difference was found.")
    return " ".join(sentences)


# --- over a number that was swept


def _scales(study: _Study) -> tuple[list[str], list[Figure]]:
    text: list[str] = []
    figures: list[Figure] = []
    for key, lines in swept(study.runs).items():
        with_figures = [(line, _values(study, line, study.metric)) for line in lines]
        with_figures = [(line, values) for line, values in with_figures if len(values) > 1]
        if not with_figures:
            continue
        name = key_name(key)
        text += [*([""] if text else []), f"### {title(study.metric)} over {_text(name)}", ""]
        text += [f"- {_optimum(study, line, values, name)}" for line, values in with_figures]
        figure = Figure(
            "lines",
            f"{study.name}{name.replace('.', '-')}.png",
            f"{title(study.metric)} over {name}: means and standard errors",
            name,
            title(study.metric),
            {
                _line_label(line): [(x, m.mean, m.error) for x, one in values.items() if (m := _mean(one))]
                for line, values in with_figures
            },
            log_x=min(x for _, values in with_figures for x in values) > 0,
        )
        figures.append(figure)
        text += ["", _image(figure), "", *_other_metrics(study, with_figures, name)]
        text += _explained(study, with_figures, name)
    return text, figures


Values = dict[float, dict[str, list[float]]]  # by the swept number and the seed


def _values(study: _Study, line: Line, metric: str) -> Values:
    found: Values = {}
    for x, runs in line.points.items():
        for run in runs:
            if run.finished and metric in (reached := study.facts.get(run.name, Facts()).metrics):
                found.setdefault(x, {}).setdefault(value(run, "seed"), []).append(reached[metric])
    return found


def _mean(by_seed: dict[str, list[float]]) -> Mean | None:
    return mean([x for values in by_seed.values() for x in values])


def _optimum(study: _Study, line: Line, values: Values, name: str) -> str:
    """Where a line is best, and which of its other points the noise cannot tell from it."""
    sign = 1 if _is_low(study.metric) else -1
    means = {x: found for x, by_seed in values.items() if (found := _mean(by_seed))}
    best = min(means, key=lambda x: sign * means[x].mean)
    others = [x for x in means if x != best]
    reached = (one for by_seed in values.values() for some in by_seed.values() for one in some)
    ratios = in_logarithms(study.metric, reached)
    tests = [against(values[x], values[best], ratios) for x in others]
    corrected = holm([one.p for one in tests])
    level = [f"{x:g}" for x, p in zip(others, corrected, strict=True) if p is not None and p >= ALPHA]
    apart = [f"{x:g}" for x, p in zip(others, corrected, strict=True) if p is not None and p < ALPHA]
    where = f"{_line_label(line)}: " if _line_label(line) else ""
    sentence = f"{where}{title(study.metric)} is {_direction(study.metric)} at {name} = {best:g}"
    sentence += f", {number(means[best])}"
    if not level and not apart:
        return _text(f"{sentence}; too few seeds for a test.")
    if level and not apart:
        return _text(f"{sentence}; the noise cannot tell any other value from it: no dependence was found.")
    told = f"; beyond the noise from {_list(apart)}"
    return _text(sentence + told + (f", not from {_list(level)}." if level else "."))


def _other_metrics(study: _Study, lines: Sequence[tuple[Line, Values]], name: str) -> list[str]:
    """The value of the swept number at which each other metric is best, by line."""
    metrics = [metric for metric in _metrics(study) if metric != study.metric]
    if not metrics:
        return []
    rows = []
    for line, _ in lines:
        row = [_line_label(line) or "all"]
        for metric in [study.metric, *metrics]:
            sign = 1 if _is_low(metric) else -1
            means = {x: m.mean for x, one in _values(study, line, metric).items() if (m := _mean(one))}
            row.append(f"{min(means, key=lambda x, s=sign, m=means: s * m[x]):g}" if means else "–")  # type: ignore[misc]
        rows.append(row)
    head = [f"best {name} by", *(_title(metric) for metric in [study.metric, *metrics])]
    return [*_table(head, rows), ""]


def _explained(study: _Study, lines: Sequence[tuple[Line, Values]], name: str) -> list[str]:
    """The quantities at each line's best value: whether lines agree in what was measured there."""
    sign = 1 if _is_low(study.metric) else -1
    titles = [quantity.title for quantity in QUANTITIES[:1] + QUANTITIES[4:5] + QUANTITIES[7:8]]
    rows = []
    for line, values in lines:
        means = {x: found.mean for x, one in values.items() if (found := _mean(one))}
        best = min(means, key=lambda x: sign * means[x])
        row = [_line_label(line) or "all", f"{best:g}"]
        for one in titles:
            there = [
                study.facts[run.name].quantities[one]
                for run in line.points[best]
                if run.finished and one in study.facts.get(run.name, Facts()).quantities
            ]
            average = mean(there)
            row.append(number(average) if average else "–")
        rows.append(row)
    if all(cell == "–" for row in rows for cell in row[2:]):
        return []
    return [
        f"At its best {_text(name)} each has (second half of training):",
        "",
        *_table(["", f"best {name}", *titles], rows),
    ]


# --- all metrics


def _metrics(study: _Study) -> list[str]:
    names = dict.fromkeys(name for run in study.finished for name in study.facts[run.name].metrics)
    return sorted(names, key=lambda name: (not _is_low(name), name != study.metric))


def _all_metrics(study: _Study) -> tuple[list[str], list[Figure]]:
    metrics = _metrics(study)
    if len(metrics) < 2:
        return [], []
    rows = []
    for group in study.table.groups:
        row = [group.label]
        for metric in metrics:
            there = [
                study.facts[run.name].metrics[metric]
                for run in group.runs
                if run.finished and metric in study.facts.get(run.name, Facts()).metrics
            ]
            average = mean(there)
            row.append(number(average) if average else "–")
        rows.append(row)
    head = ["setting", *(f"{_title(metric)} {'↓' if _is_low(metric) else '↑'}" for metric in metrics)]
    agree = []
    for metric in metrics[1:]:
        pairs = [
            (facts.metrics[study.metric], facts.metrics[metric])
            for run in study.finished
            if {study.metric, metric} <= (facts := study.facts[run.name]).metrics.keys()
        ]
        found = spearman([x for x, _ in pairs], [y for _, y in pairs], range(len(pairs)))
        if found:
            agree.append(f"{_title(metric)} {found[0]:+.2f}")
    words = ["### Every metric", "", *_table(head, rows)]
    if agree:
        words += ["", f"Rank correlation with {title(study.metric)} over the runs: {', '.join(agree)}."]
    return words, []


# --- what the theory is about


def _audits(study: _Study) -> tuple[list[str], list[Figure]]:
    """The quantities that only audits measure, by setting: a table, and a figure of each."""
    by_quantity: dict[str, dict[str, list[float]]] = {}
    for quantity in QUANTITIES:
        if not quantity.audited:
            continue
        by_setting = {
            group.label: [
                study.facts[run.name].quantities[quantity.title]
                for run in group.runs
                if run in study.finished and quantity.title in study.facts[run.name].quantities
            ]
            for group in study.table.groups
        }
        if len(there := {label: values for label, values in by_setting.items() if values}) > 1:
            by_quantity[quantity.title] = there
    if not by_quantity:
        return [], []
    labels = [
        group.label for group in study.table.groups if any(group.label in v for v in by_quantity.values())
    ]
    rows = [
        [
            label,
            *(
                number(average) if (average := mean(values.get(label, []))) else "–"
                for values in by_quantity.values()
            ),
        ]
        for label in labels
    ]
    figures = [
        Figure(
            "settings",
            f"{study.name}audit{place}.png",
            f"The {quantity} of every run that finished, and the means",
            "",
            quantity,
            {label: [(0.0, x, None) for x in values] for label, values in by_setting.items()},
        )
        for place, (quantity, by_setting) in enumerate(by_quantity.items())
    ]
    words = [
        "### What audits measured",
        "",
        "Of each run the median over the second half of its training, of layers' values the geometric mean; "
        "here the mean ± standard error over the runs of a setting that finished.",
        "",
        *_table(["setting", *by_quantity], rows),
    ]
    for figure in figures:
        words += ["", _image(figure)]
    return words, figures


# --- what goes along with the distance


def correlations(runs: Sequence[Run], facts: dict[str, Facts], metric: str) -> list[Correlation]:
    """Spearman's of each quantity with the metric, the strongest first."""
    keys = settings(runs)
    found = []
    for quantity in QUANTITIES:
        pairs = [
            (
                of_run.quantities[quantity.title],
                of_run.metrics[metric],
                tuple(value(run, key) for key in keys),
            )
            for run in runs
            if run.finished
            and (of_run := facts.get(run.name, Facts()))
            and quantity.title in of_run.quantities
            and metric in of_run.metrics
        ]
        xs, ys, of_settings = zip(*pairs, strict=True) if pairs else ((), (), ())
        if result := spearman(xs, ys, of_settings, level=1 - (1 - LEVEL) / len(QUANTITIES)):
            found.append(Correlation(quantity.title, len(pairs), *result))
    return sorted(found, key=lambda one: -abs(one.rho))


def _correlations(study: _Study) -> tuple[list[str], list[Figure]]:
    found = correlations(study.runs, study.facts, study.metric)
    if not found:
        return [], []
    apart = [one for one in found if one.is_apart]
    metric = title(study.metric)
    if apart:
        said = [
            f"{one.quantity} ({'rises' if one.rho > 0 else 'falls'} with it, ρ = {one.rho:+.2f})"
            for one in apart
        ]
        sentence = f"Over all runs {_list(said)} {'goes' if len(apart) == 1 else 'go'} along with {metric}."
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
    figure = _scatter(study, found[0].quantity)
    words = [
        f"### What goes along with {metric}",
        "",
        f"{sentence} Spearman's ρ of each run's last {metric} and the median of its second half of training; "
        "95% bootstrap intervals over settings, for all quantities together (Bonferroni). What goes along is "
        "no cause.",
        "",
        *_table(["quantity", "ρ", "interval", "runs"], rows),
        "",
        _image(figure),
    ]
    return words, [figure]


def _scatter(study: _Study, quantity: str) -> Figure:
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
    is_positive = all(x > 0 for some in points.values() for x, *_ in some)
    return Figure(
        "scatter", f"{study.name}along.png", words, quantity, title(study.metric), points, log_x=is_positive
    )


# --- what is open


def _open(study: _Study) -> list[str]:
    items = []
    if found := differences(study.table):
        for group, cell in found.others:
            one = cell.against[0]
            if one.corrected is not None and one.corrected >= ALPHA:
                items.append(
                    f"Whether {group.label} differs from {found.best.label}: p = {probability(one.corrected)}"
                    f"{_to_settle(one)}."
                )
    for group in study.table.groups:
        if group.diverged:
            items.append(
                f"{group.label}: {group.diverged} of {len(group.runs)} runs diverged, in no mean here."
            )
        if group.failed or group.others:
            items.append(
                f"{group.label}: {group.failed + group.others} of {len(group.runs)} runs have not finished."
            )
        if group.finished and group.seeds == 1:
            items.append(f"{group.label} has one seed, so that nothing is known of its spread.")
        lacking = [run for run in group.runs if run.finished and not _has(study, run)]
        if lacking:
            items.append(f"{group.label}: {len(lacking)} finished runs have no {title(study.metric)}.")
    if not items:
        items = ["Nothing of what was asked: every other setting is told from the best."]
    return ["### What cannot be told", "", *(f"- {_text(item)}" for item in items)]


def _has(study: _Study, run: Run) -> bool:
    return study.metric in study.facts.get(run.name, Facts()).metrics


def _to_settle(one: Comparison) -> str:
    if not one.differences:
        return ""
    return f", and it would take {seeds(one).replace('> ', 'more than ')} seeds to find such a difference"


# --- samples, and how things are written


def _samples(study: _Study, most: int = 12) -> list[tuple[str, Run]]:
    shown = []
    for group in study.table.groups[:most]:
        run = next((run for run in group.runs if any(run.directory.samples.glob("*.png"))), None)
        if run:
            shown.append((group.label, run))
    return shown


def _is_low(metric: str) -> bool:
    return is_better_low(metric)


def _direction(metric: str) -> str:
    return "lowest" if _is_low(metric) else "highest"


def _title(metric: str) -> str:
    words = title(metric)
    kind = words.split(" ")[0]
    return words if kind in ("FID", "FD", "IS", "KID") else words.lower()


def _line_label(line: Line) -> str:
    return "" if line.label == "all runs" else line.label


def _named(labels: Sequence[str]) -> str:
    some = list(labels[:MOST_NAMED])
    return _text(_list([*some, f"{len(labels) - MOST_NAMED} more"] if len(labels) > MOST_NAMED else some))


def _have(labels: Sequence[str]) -> str:
    return "has" if len(labels) == 1 else "have"


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [markdown_row(head), "| --- |" + " ---: |" * (len(head) - 1), *map(markdown_row, rows)]


def _image(figure: Figure) -> str:
    return f"![{_text(figure.words)}]({figure.name})"


def _text(text: str) -> str:
    return markdown(text)
