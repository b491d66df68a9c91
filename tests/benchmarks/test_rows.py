"""The rows' arithmetic, tables and file."""

import json
from pathlib import Path

import pytest

from benchmarks import rows
from benchmarks.rows import Row
from gan_lab.errors import UserError

ROWS = [Row("ratio/a", 1.25, "×"), Row("time/b", 12345.6, "ms"), Row("time/c", 0.00012346, "s")]


def test_a_ratio_is_that_of_its_rounds_and_not_of_the_medians() -> None:
    """A round in which the machine was slow for both says the same as any other."""
    theirs, ours = [1.0, 10.0, 3.0], [0.5, 5.0, 1.0]
    assert rows.median_ratio(theirs, ours) == 2.0
    assert rows.median_ratio(ours, ours) == 1.0


def test_rounds_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        rows.median_ratio([1.0, 2.0], [1.0])


def test_the_file_is_a_list_of_name_value_and_unit(tmp_path: Path) -> None:
    path = tmp_path / "new" / "benchmark.json"
    path.parent.mkdir()
    rows.write(path, ROWS)
    assert json.loads(path.read_text()) == [
        {"name": "ratio/a", "value": 1.25, "unit": "×"},
        {"name": "time/b", "value": 12345.6, "unit": "ms"},
        {"name": "time/c", "value": 0.00012346, "unit": "s"},
    ]
    assert rows.read(path) == ROWS


def test_a_file_that_says_more_keeps_it(tmp_path: Path) -> None:
    """As `make gpu`'s does: the card, and what tests saw there."""
    path, more = tmp_path / "gpu.json", {"gpu": "A card", "tests": {"a": 1.0}}
    path.write_text(json.dumps(more))
    assert rows.read(path) == []
    for some in (ROWS[:1], ROWS):
        rows.write(path, some)
        assert rows.read(path) == some
        assert {name: json.loads(path.read_text())[name] for name in more} == more


@pytest.mark.parametrize(
    "content", ["{", "[1]", '[{"name": "a"}]', '[{"name": "a", "value": "x", "unit": ""}]']
)
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"other\.json is no file of benchmark rows"):
        rows.read(path)
    with pytest.raises(UserError, match="no file of benchmark rows"):
        rows.read(tmp_path / "missing.json")


def test_new_rows_replace_old_ones_of_their_names() -> None:
    new = [Row("time/b", 1.0, "s"), Row("time/d", 2.0, "s")]
    assert rows.merged(ROWS, new) == [ROWS[0], new[0], ROWS[2], new[1]]


def test_a_line_says_what_changed() -> None:
    assert rows.line(ROWS[0], {}).split() == ["ratio/a", "1.25", "×"]
    assert rows.line(ROWS[0], {"ratio/a": 1.0}).endswith("was 1 (+25.0%)")
    assert rows.line(ROWS[0], {"ratio/a": 2.5}).endswith("was 2.5 (-50.0%)")
    assert rows.line(ROWS[0], {"ratio/a": 0.0}).endswith("was 0")  # no percentage of nothing


def test_the_table_in_markdown() -> None:
    assert rows.markdown(ROWS, {}).splitlines() == [
        "| row | value | unit |",
        "| --- | ---: | --- |",
        "| `ratio/a` | 1.25 | × |",
        "| `time/b` | 12346 | ms |",
        "| `time/c` | 0.0001235 | s |",
    ]
    compared = rows.markdown(ROWS, {"ratio/a": 1.0}).splitlines()
    assert compared[2:4] == ["| `ratio/a` | 1.25 | × | 1 (+25.0%) |", "| `time/b` | 12346 | ms |  |"]
