"""Which setting is best, how surely, and what cannot be told."""

from collections.abc import Sequence

from gan_lab.report.chapter.study import Figure, Points, Study
from gan_lab.report.chapter.words import counted, direction, have, image, named
from gan_lab.report.comparison import FINAL, Group, title
from gan_lab.report.differences import differences, probability, seeds
from gan_lab.report.statistics import ALPHA, Comparison
from gan_lab.report.tables import as_markdown, markdown, number


def best_setting(study: Study) -> tuple[list[str], list[Figure]]:
    words = ["### Which setting is best", ""]
    found = differences(study.table)
    column = (study.metric, FINAL)
    if found is None:
        (group,) = (group for group in study.table.groups if column in group.cells)
        only = number(group.cells[column].mean)
        words += [
            f"Only {markdown(group.label)} has a {title(study.metric)}, {only}: there is nothing to compare."
        ]
        return [*words, "", as_markdown([study.table]).strip()], []
    best = found.best.cells[column].mean
    against = [(group.label, cell.against[0]) for group, cell in found.others]
    words += [
        f"**{markdown(found.best.label)}** has the {direction(study.metric)} {title(study.metric)}: "
        f"{number(best)} (mean{' ± standard error' if best.error is not None else ''} of "
        f"{counted(best.n, 'run')}){_diverged(found.best)}. {verdicts(against)}"
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
    return [*words, "", as_markdown([study.table]).strip(), "", image(figure)], [figure]


def _diverged(group: Group) -> str:
    """That a mean is of those runs only which did not diverge."""
    return f", and {group.diverged} of its {len(group.runs)} runs diverged" if group.diverged else ""


def verdicts(comparisons: Sequence[tuple[str, Comparison]]) -> str:
    """Which others the best one is ahead of, from which it cannot be told, and which cannot be tested."""
    worse = [label for label, one in comparisons if one.corrected is not None and one.corrected < ALPHA]
    level = [label for label, one in comparisons if one.corrected is not None and one.corrected >= ALPHA]
    untested = [label for label, one in comparisons if one.corrected is None]
    sentences = []
    if worse:
        sentences.append(f"It is ahead of {named(worse)} by more than the noise.")
    if level:
        sentences.append(f"From {named(level)} the noise cannot tell it.")
    if untested:
        sentences.append(f"{named(untested)} {have(untested)} too few seeds for a test.")
    if level and not worse:
        sentences.append("No difference was found.")
    return " ".join(sentences)


def open_questions(study: Study) -> list[str]:
    items = []
    if found := differences(study.table):
        for group, cell in found.others:
            one = cell.against[0]
            if one.differences and not any(one.differences):
                items.append(f"{group.label} has the figures of {found.best.label} in every seed.")
            elif one.corrected is not None and one.corrected >= ALPHA:
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
        lacking = [run for run in group.runs if run.finished and study.metric not in study.of(run).metrics]
        if lacking:
            items.append(f"{group.label}: {len(lacking)} finished runs have no {title(study.metric)}.")
    if not items:
        items = ["Nothing of what was asked: every other setting is told from the best."]
    return ["### What cannot be told", "", *(f"- {markdown(item)}" for item in items)]


def _to_settle(one: Comparison) -> str:
    if not one.differences:
        return ""
    return f", and it would take {seeds(one).replace('> ', 'more than ')} seeds to find such a difference"
