"""The comparison as a table: text for a terminal, CSV, Markdown, LaTeX."""

import csv
import dataclasses
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from gan_lab.report.comparison import FINAL, Cell, Group, Table, arrowed, is_better_low, title
from gan_lab.report.differences import all_differences
from gan_lab.report.runs import passed_over, plain
from gan_lab.report.statistics import ALPHA, Comparison, Mean

BOLD, NORMAL = "\x1b[1m", "\x1b[0m"
BEST_MARK, NOISE_MARK, UNTESTED_MARK = " *", " ≈", " °"

TESTED = (
    *("test", "p", "p_holm", "pairs", "difference", "difference_low", "difference_high"),
    *("effect", "effect_low", "effect_high", "seeds_needed"),
)  # the CSV's columns on the comparison with the best
WIDTH = 100  # of the notes below a table in a terminal
NOTE = (
    "Mean ± standard error over the seeds of the runs that finished. {best} is the best of its column; "
    "{noise} is inside its noise (t-test against the best, in pairs by seed, or Welch's where no seeds are "
    "shared; of distances' logarithms, since their noise grows with them; two-sided, with Holm's correction "
    "for all groups that are worse, p ≥ {alpha}); {untested} has too few seeds for a test; the others "
    "differ. Final: the last evaluation; best: the best of a "
    "run's evaluations. Time: a run's training, without metrics and samples."
)


def note(best: str = "*", noise: str = "≈", untested: str = "°") -> str:
    """How the figures came about, in the words of the format at hand."""
    return NOTE.format(best=best, noise=noise, untested=untested, alpha=ALPHA)


def number(value: Mean, plus_minus: str = " ± ") -> str:
    """The mean and its standard error with two digits of the error; four digits of a mean without one.

    From a million on both as multiples of one power of ten, `(3.87 ± 0.32)e12`.
    """
    size = max(abs(value.mean), value.error or 0)
    if value.error and math.isfinite(size) and size >= 1e6:
        power = math.floor(math.log10(size))
        scaled = Mean(value.n, value.mean / 10**power, value.error / 10**power)
        return f"({number(scaled, plus_minus)})e{power}"
    if not value.error:
        return f"{value.mean:.4g}" + (f"{plus_minus}0" if value.error == 0 else "")
    digits = min(4, max(0, 1 - math.floor(math.log10(value.error))))
    return f"{value.mean:.{digits}f}{plus_minus}{value.error:.{digits}f}"


def duration(hours: float) -> str:
    """Hours in the unit that suits them."""
    if hours < 0.025:
        return f"{3600 * hours:.1f} s"
    return f"{60 * hours:.1f} min" if hours < 1.5 else f"{hours:.1f} h"


def heading(column: tuple[str, str]) -> str:
    metric, which = column
    words, _, arrow = arrowed(metric).rpartition(" ")
    return f"{words} {which} {arrow}"


def verdict(p: float | None) -> str:
    """What the test against a better group says, by its corrected p."""
    if p is None:
        return "no test"
    if p >= ALPHA:
        return f"≈ p = {p:.2f}"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """The headings and the rows of a table, as plain text with marks."""
    counts = _counts(table)
    head = ["group", "seeds", *(heading(column) for column in table.columns), *counts, "time"]
    return head, [
        [
            plain(group.label),
            str(group.seeds),
            *(_figure(table, group, column) for column in table.columns),
            *(str(getattr(group, name)) for name in counts),
            duration(group.hours.mean) if group.hours else "–",
        ]
        for group in table.groups
    ]


def _counts(table: Table) -> list[str]:
    """Which counts of its runs a table shows, the seeds aside: those that say nothing are left out."""
    finished = ["finished"] if any(group.finished != group.seeds for group in table.groups) else []
    others = ["others"] if any(group.others for group in table.groups) else []
    return [*finished, "diverged", "failed", *others]


def _figure(table: Table, group: Group, column: tuple[str, str]) -> str:
    cell = group.cells.get(column)
    if cell is None:
        return "–"
    mark = ""
    if cell.is_best:
        mark = BEST_MARK
    elif cell.in_noise:
        mark = NOISE_MARK
    elif cell.p is None and any(other.is_best for other in _column(table, column)):
        mark = UNTESTED_MARK
    return number(cell.mean) + mark


def _column(table: Table, column: tuple[str, str]) -> list[Cell]:
    return [group.cells[column] for group in table.groups if column in group.cells]


def warnings(tables: Sequence[Table]) -> list[str]:
    """Which groups hold more than the seeds of one setting, and which copies were passed over."""
    copies = passed_over(run for table in tables for group in table.groups for run in group.runs)
    mixed = [
        f"{plain(group.label)} mixes runs that differ in {', '.join(group.mixes)}: its spread is not that of "
        "seeds only."
        for table in tables
        for group in table.groups
        if group.mixes
    ]
    return [*mixed, copies] if copies else mixed


def as_text(tables: Sequence[Table], bold: bool) -> str:
    """For a terminal; `bold` where it can show the best in bold."""
    lines = []
    for table in tables:
        head, body = cells(table)
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines += ["", *([plain(table.title)] if table.title else []), _line(head, widths, bold=False)]
        lines.append("  ".join("─" * width for width in widths))
        lines += [_line(row, widths, bold) for row in body]
    lines += ["", textwrap.fill(note(), WIDTH), *warnings(tables)]
    for table, found in all_differences(tables):
        head, body = found.head, [[plain(row[0]), *row[1:]] for row in found.rows()]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines += ["", *([plain(table.title)] if table.title else []), _line(head, widths, bold=False)]
        lines += [
            "  ".join("─" * width for width in widths),
            *(_line(row, widths, bold=False) for row in body),
        ]
        lines += ["", textwrap.fill(plain(found.note), WIDTH)]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int], bold: bool) -> str:
    padded = [
        text.rjust(width) if place else text.ljust(width)
        for place, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    if bold:
        padded = [f"{BOLD}{text}{NORMAL}" if text.endswith(BEST_MARK) else text for text in padded]
    return "  ".join(padded).rstrip()


def as_markdown(tables: Sequence[Table]) -> str:
    """For a README or an issue."""
    lines = []
    for table in tables:
        head, body = cells(table)
        lines += [f"**{markdown(table.title)}**", ""] if table.title else []
        lines += [markdown_row(head), "| --- |" + " ---: |" * (len(head) - 1)]
        lines += [*map(markdown_row, body), ""]
    parts = ["\n".join(lines), *map(markdown, [note(best="Bold"), *warnings(tables)])]
    for table, found in all_differences(tables):
        parts += [f"**{markdown(table.title)}**"] if table.title else []
        rows = [markdown_row(found.head), "| --- |" + " ---: |" * (len(found.head) - 1)]
        parts += ["\n".join([*rows, *map(markdown_row, found.rows())]), markdown(found.note)]
    return "\n\n".join(parts) + "\n"


def markdown_row(row: Iterable[str]) -> str:
    marked = (
        f"**{markdown(text.removesuffix(BEST_MARK))}**" if text.endswith(BEST_MARK) else markdown(text)
        for text in row
    )
    return f"| {' | '.join(marked)} |"


def markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def as_csv(tables: Sequence[Table]) -> str:
    """Full precision, one row for each group and column of the table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *("data", "group", "metric", "which", "seeds", "mean", "standard_error", "is_best", *TESTED),
            *("finished", "diverged", "failed", "other", "hours"),
        ]
    )
    for table in tables:
        for group in table.groups:
            counts = (group.finished, group.diverged, group.failed, group.others)
            hours = group.hours.mean if group.hours else None
            for metric, which in table.columns or [("", "")]:
                cell = group.cells.get((metric, which))
                row = [_csv(table.title), _csv(group.label), _csv(metric), which]
                figures = [*dataclasses.astuple(cell.mean), cell.is_best] if cell else [None] * 4
                tested = _tested(cell.against[0]) if cell and cell.against else [None] * len(TESTED)
                writer.writerow([*row, *figures, *tested, *counts, hours])
    return out.getvalue()


def _tested(found: Comparison) -> list[Any]:
    """What `TESTED` names, of a comparison with the best."""
    figures: list[Any] = [found.test, found.p, found.corrected, len(found.differences) or None]
    for one in (found.difference, found.effect):
        value, interval = one or (None, None)
        figures += [value, *(interval or (None, None))]
    return [*figures, found.seeds_needed]


def _csv(text: str) -> str:
    """A spreadsheet would run a cell that begins like a formula."""
    return f"'{plain(text)}" if text.startswith(("=", "+", "-", "@")) else plain(text)


def as_latex(tables: Sequence[Table]) -> str:
    """The shape of the paper's tables: a row for each setting; IS and FID, final, for each data set."""
    columns = [
        (table, metric)
        for table in tables
        for metric, which in sorted(table.columns, key=lambda column: is_better_low(column[0]))
        if which == FINAL
    ]
    lines = [
        "% needs \\usepackage{booktabs}; final values",
        f"% {note(best='Bold', noise='underlined')}",
        f"\\begin{{tabular}}{{l{'c' * len(columns)}}}",
        "\\toprule",
    ]
    if any(table.title for table in tables):
        widths = {id(table): sum(other is table for other, _ in columns) for table in tables}
        spans = [
            f"\\multicolumn{{{widths[id(table)]}}}{{c}}{{{_latex(table.title)}}}"
            for table in tables
            if widths[id(table)]
        ]
        lines.append(f" & {' & '.join(spans)} \\\\")
    arrows = {True: "$\\downarrow$", False: "$\\uparrow$"}
    named = [f"{_latex(title(metric))} {arrows[is_better_low(metric)]}" for _, metric in columns]
    lines += [f" & {' & '.join(named)} \\\\", "\\midrule"]
    for label in dict.fromkeys(group.label for table in tables for group in table.groups):
        figures = []
        for table, metric in columns:
            group = next((group for group in table.groups if group.label == label), None)
            figures.append(_latex_figure(group.cells.get((metric, FINAL)) if group else None))
        lines.append(f"{' & '.join([_latex(label), *figures])} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_figure(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    figure = number(cell.mean, " \\pm ")
    if cell.is_best:
        return f"$\\mathbf{{{figure}}}$"
    return f"\\underline{{${figure}$}}" if cell.in_noise else f"${figure}$"


LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "·": "$\\cdot$",
    "–": "--",
}


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in plain(text))
