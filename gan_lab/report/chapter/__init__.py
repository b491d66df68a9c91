"""What a sweep says, as a chapter: sentences, tables and figures that are made from its numbers only.

`study` is what it is of, `ranking`, `dependence`, `forgiveness` and `measured` are its parts, `figures`
draws.
"""

from collections.abc import Sequence

from gan_lab.report import quantities
from gan_lab.report.chapter.dependence import over_numbers
from gan_lab.report.chapter.forgiveness import over_a_grid
from gan_lab.report.chapter.measured import every_metric, measured_quantities, what_goes_along
from gan_lab.report.chapter.ranking import best_setting, open_questions
from gan_lab.report.chapter.study import Chapter, Figure, Study
from gan_lab.report.chapter.words import counted, listed
from gan_lab.report.comparison import Table, by_protocol, compare, grouped, read_scores
from gan_lab.report.grids import available
from gan_lab.report.runs import Damaged, Run, key_name, passed_over, settings
from gan_lab.report.tables import markdown

__all__ = ["Chapter", "Figure", "write"]

_PARTS = (best_setting, over_numbers, over_a_grid, every_metric, measured_quantities, what_goes_along)


def write(runs: Sequence[Run], damaged: Sequence[Damaged], heading: str, page: str = "") -> Chapter:
    """The chapter about these runs; `page` is where the comparison page lies, as the chapter links to it."""
    found, unread = read_scores(runs)
    facts, _ = quantities.read(runs)
    lines = [f"# {markdown(heading)}", "", _about(runs)]
    lines += ["", f"[The comparison page]({page}) has every curve of these runs."] if page else []
    figures: list[Figure] = []
    samples: list[tuple[str, Run]] = []
    troubles = [*damaged, *unread]
    for place, (words, members) in enumerate(by_protocol(runs)):
        (table,) = compare(members, found, settings(members)) or [Table(words, [], [])]
        study = Study(members, facts, table, f"{place}-" if place else "")
        lines += ["", f"## {markdown(words)}"] if words else []
        if not table.columns:
            lines += ["", "No run that finished has a distance (FID, FD) or an IS: there is nothing to rank."]
            continue
        for part in _PARTS:
            text, drawn = part(study)
            lines += ["", *text] if text else []
            figures += drawn
        if shown := _samples(study):
            samples += shown
        lines += ["", *open_questions(study)]
    if samples:
        names = ", ".join(f"{markdown(label)}" for label, _ in samples)
        lines += ["", "## Samples", "", f"From the same latents, left to right and down: {names}.", ""]
        lines += ["![samples of one run of each setting](samples.png)"]
    if troubles:
        lines += ["", "## What could not be read", ""]
        lines += [f"- {markdown(trouble.name)}: {markdown(trouble.reason)}" for trouble in troubles]
    if copies := passed_over(runs):
        lines += ["", markdown(copies)]
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
    over = f" over {listed(swept_keys)}" if swept_keys else ""
    return f"{counted(len(runs), 'run')} of {counted(len(groups), 'setting')}{markdown(over)}: {states}."


def _samples(study: Study, most: int = 12) -> list[tuple[str, Run]]:
    shown = []
    for group in study.table.groups[:most]:
        run = next((run for run in group.runs if available(run.directory.samples)), None)
        if run:
            shown.append((group.label, run))
    return shown
