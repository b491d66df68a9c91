"""The comparison as text, CSV, Markdown and LaTeX."""

import csv
import io
import math
import re
import statistics

import pytest

from gan_lab.report.comparison import BEST, FINAL, Cell, Group, Table
from gan_lab.report.differences import differences
from gan_lab.report.statistics import PAIRED, WELCH, Comparison, Mean
from gan_lab.report.tables import as_csv, as_latex, as_markdown, as_text, duration, number

FID = "metric/fid_digits"
OPEN = Comparison(PAIRED, 0.155, (2.0, -1.0, 1.4), corrected=0.31)


def group(label: str, cell: Cell | None, mixes: list[str] | None = None) -> Group:
    cells = {(FID, FINAL): cell} if cell else {}
    return Group(label, (label,), [], mixes or [], Mean(3, 0.5, 0.01), cells)


def test_differences_are_said_below_the_table(tables: list[Table]) -> None:
    for text in (as_text(tables, bold=False), as_markdown(tables)):
        (line,) = (line for line in text.splitlines() if "2 of 3" in line)
        assert re.search(r"0\.8 \\?\[.*\].*0\.31", line)
        assert str(OPEN.seeds_needed) in line
    assert differences(tables[0]).best.label == "bssn"  # type: ignore[union-attr]
    assert differences(Table("", [group("alone", Cell(Mean(3, 1.0, 1.0)))], [(FID, FINAL)])) is None
    assert differences(Table("", [], [])) is None


def test_distances_are_said_as_ratios() -> None:
    best = Cell(Mean(3, 10.0, 1.0), True)
    twice = Comparison(f"{PAIRED} of logarithms", 0.01, (math.log(2), math.log(1.8), math.log(2.2)), 0.02)
    table = Table(
        "", [group("sn", best), group("none", Cell(Mean(3, 20.0, 1.0), against=(twice,)))], [(FID, FINAL)]
    )
    found = differences(table)
    assert found is not None
    assert found.head[1] == "FID digits ↓ ratio"
    assert re.fullmatch(r"× 1\.99 \[1\.8, 2\.2\]", found.rows()[0][1])
    assert found.note.startswith("Ratios of final values to sn")


@pytest.fixture
def tables() -> list[Table]:
    best, near = Cell(Mean(3, 20.123, 0.0567), True), Cell(Mean(3, 21.0, 1.2), against=(OPEN,))
    far = Cell(Mean(3, 90.0, 0.5), against=(Comparison(WELCH, 0.0005, corrected=0.001),))
    alone = Cell(Mean(1, 19.5, None), against=(Comparison(WELCH, None),))
    groups = [group("bssn", best), group("s_n & #1", near), group("none", far), group("=1+1", alone)]
    return [Table("cifar10", [*groups, group("empty", None, ["norm.scale"])], [(FID, FINAL), (FID, BEST)])]


def test_figures() -> None:
    assert number(Mean(3, 20.123, 0.0567)) == "20.123 ± 0.057"
    assert number(Mean(3, 20.123, 1.2)) == "20.1 ± 1.2"
    assert number(Mean(3, 2012.3, 120.0)) == "2012 ± 120"
    assert number(Mean(1, 20.1234, None)) == "20.12"
    assert number(Mean(2, 7.0, 0.0)) == "7 ± 0"
    assert number(Mean(8, 3870040064000.0, 318034784908.0)) == "(3.87 ± 0.32)e12"
    assert number(Mean(8, -2.5e4, 1.8e7)) == "(-0.0 ± 1.8)e7"
    assert number(Mean(8, 999_999.0, 10.0)) == "999999 ± 10"
    assert [duration(hours) for hours in (0.001, 0.5, 12.0)] == ["3.6 s", "30.0 min", "12.0 h"]


def test_text_marks_the_best_the_noise_and_the_untested(tables: list[Table]) -> None:
    summary, _ = as_text(tables, bold=False).split("Mean ± ")
    lines = {line.split("  ")[0]: line for line in summary.splitlines()}
    assert "20.123 ± 0.057 *" in lines["bssn"]
    assert "21.0 ± 1.2 ≈" in lines["s_n & #1"]
    assert re.search(r"90\.00 ± 0\.50 +–", lines["none"])
    assert "19.5 °" in lines["=1+1"]
    assert "Welch" in as_text(tables, bold=False)
    assert "empty mixes runs that differ in norm.scale" in as_text(tables, bold=False)
    assert "\x1b" not in as_text(tables, bold=False)
    assert as_text(tables, bold=True).count("\x1b[1m") == 1


def test_columns_are_aligned(tables: list[Table]) -> None:
    lines = as_text(tables, bold=False).splitlines()
    rule = next(line for line in lines if line.startswith("─"))
    ends = {match.end() for match in re.finditer("─+", rule)}
    row = next(line for line in lines if line.startswith("bssn"))
    assert row.index("*") + 1 in ends


def test_csv_has_every_digit_and_no_formula(tables: list[Table]) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(tables))))
    first = rows[0]
    assert (first["data"], first["group"], first["metric"], first["which"]) == (
        "cifar10",
        "bssn",
        FID,
        "final",
    )
    assert (float(first["mean"]), float(first["standard_error"])) == (20.123, 0.0567)
    assert first["is_best"] == "True"
    tested = rows[2]
    assert (tested["test"], float(tested["p"]), float(tested["p_holm"])) == (PAIRED, 0.155, 0.31)
    assert float(tested["difference"]) == pytest.approx(0.8)
    assert float(tested["difference_low"]) < 0.8 < float(tested["difference_high"])
    assert float(tested["effect"]) == pytest.approx(0.8 / statistics.stdev(OPEN.differences))
    assert (int(tested["pairs"]), int(tested["seeds_needed"])) == (3, OPEN.seeds_needed)
    assert rows[4]["pairs"] == rows[4]["difference"] == ""
    assert rows[1]["mean"] == ""
    assert {row["group"] for row in rows} == {"bssn", "s_n & #1", "none", "'=1+1", "empty"}


def test_markdown_is_a_table_without_foreign_markup(tables: list[Table]) -> None:
    tables[0].groups[1].label = "<b>|x|</b>"
    text = as_markdown(tables)
    summary, _ = text.split("Mean ± ")
    table = [line for line in summary.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "**20.123 ± 0.057**" in text
    assert r"\<b\>\|x\|\</b\>" in text


def test_latex_has_the_papers_shape(tables: list[Table]) -> None:
    other = Table("stl10", [group("bssn", Cell(Mean(3, 40.0, 1.0)))], [(FID, FINAL)])
    text = as_latex([*tables, other])
    body = text[text.index("\\midrule") : text.index("\\bottomrule")].splitlines()[1:]
    assert "\\begin{tabular}{lcc}" in text
    assert " & \\multicolumn{1}{c}{cifar10} & \\multicolumn{1}{c}{stl10} \\\\" in text
    assert body[0] == "bssn & $\\mathbf{20.123 \\pm 0.057}$ & $40.0 \\pm 1.0$ \\\\"
    assert body[1] == "s\\_n \\& \\#1 & \\underline{$21.0 \\pm 1.2$} & -- \\\\"


def test_a_table_without_metrics_is_a_table() -> None:
    tables = [Table("", [Group("sn", ("sn",), [], [])], [])]
    for form in (as_csv, as_markdown, as_latex):
        assert "sn" in form(tables)
    assert "sn" in as_text(tables, bold=False)
