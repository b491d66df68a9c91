"""What docs/study.md says is what its records say: the chapters are reprinted to the letter."""

import re
from pathlib import Path

import pytest

from gan_lab.commands import study

DOCS = Path(__file__).parents[2] / "docs"
PACKED = sorted((DOCS / "study").glob("*.tar.xz"))


@pytest.mark.parametrize("packed", PACKED, ids=lambda path: path.name)
def test_each_chapter_is_reprinted_from_its_records(packed: Path, tmp_path: Path) -> None:
    assert study.main([str(packed), "--out", str(tmp_path), "--no-page"]) == 0
    kept = DOCS / "study" / packed.name.removesuffix(".tar.xz")
    assert (tmp_path / "chapter.md").read_text() == (kept / "chapter.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in kept.iterdir()}


def test_every_figure_of_the_overview_stands_in_a_chapter() -> None:
    """Numbers with a decimal point, and means with their errors; of the README these."""
    chapters = "".join(path.read_text() for path in (DOCS / "study").glob("*/chapter.md"))
    mean = r"\d+(?:\.\d+)? ± \d+(?:\.\d+)?"
    figures = re.findall(rf"{mean}|\d+\.\d+", (DOCS / "study.md").read_text())
    opening, _, _ = (DOCS.parent / "README.md").read_text().partition("\n## ")
    found = re.findall(mean, opening)
    assert found
    figures += found
    assert [figure for figure in figures if figure not in chapters] == []
