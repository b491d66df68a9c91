"""How a chapter says things: lists, counts, titles, tables and links to figures, in Markdown."""

from collections.abc import Iterable, Sequence

from gan_lab.report.chapter.study import Figure
from gan_lab.report.comparison import is_better_low, title
from gan_lab.report.statistics import mean
from gan_lab.report.swept import Line
from gan_lab.report.tables import markdown, markdown_row, number

MOST_NAMED = 6  # settings in a sentence


def direction(metric: str) -> str:
    return "lowest" if is_better_low(metric) else "highest"


def capitalized(metric: str) -> str:
    words = title(metric)
    kind = words.split(" ")[0]
    return words if kind in ("FID", "FD", "IS", "KID") else words.lower()


def line_label(line: Line) -> str:
    return "" if line.label == "all runs" else line.label


def named(labels: Sequence[str]) -> str:
    some = list(labels[:MOST_NAMED])
    return markdown(listed([*some, f"{len(labels) - MOST_NAMED} more"] if len(labels) > MOST_NAMED else some))


def have(labels: Sequence[str]) -> str:
    return "has" if len(labels) == 1 else "have"


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def average_of(values: Sequence[float]) -> str:
    """Their mean and its standard error, or a dash."""
    return number(average) if (average := mean(values)) else "–"


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [markdown_row(head), "| --- |" + " ---: |" * (len(head) - 1), *map(markdown_row, rows)]


def image(figure: Figure) -> str:
    return f"![{markdown(figure.words)}]({figure.name})"
