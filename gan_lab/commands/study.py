"""What a sweep says, written as a chapter: sentences, tables and figures from its runs' numbers only."""

import argparse
import re
from pathlib import Path

from gan_lab.commands import a_path, add_where
from gan_lab.report.archive import opened
from gan_lab.report.chapter import write as write_chapter
from gan_lab.report.page import render, write
from gan_lab.report.runs import find, where


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="A chapter about runs: which setting is best and how surely, how metrics depend on what "
        "was swept, what goes along with them, samples, and what cannot be told."
    )
    add = parser.add_argument
    add("outputs", type=a_path, help="the folder that holds the runs, or their packed records")
    add_where(parser)
    add(
        "--out",
        type=a_path,
        metavar="FOLDER",
        help="for chapter.md and its figures (default: <outputs>/study)",
    )
    add("--title", metavar="WORDS", help="the chapter's heading (default: the name of what is read)")
    add("--no-page", action="store_true", help="without the comparison page next to the chapter")
    given = parser.parse_args(arguments)
    out = given.out or (given.outputs if given.outputs.is_dir() else given.outputs.parent) / "study"
    with opened(given.outputs) as folder:
        _write(given, folder, out)
    print(f"chapter: {out / 'chapter.md'}")
    return 0


def _write(given: argparse.Namespace, folder: Path, out: Path) -> None:
    runs, damaged = find(folder)
    runs = where(runs, given.where)
    heading = given.title or given.outputs.name.removesuffix(".tar.xz") or "Study"
    before = _figures_beside(out / "chapter.md")
    chapter = write_chapter(runs, damaged, heading, "" if given.no_page else "comparison.html")
    if chapter.figures or chapter.samples:
        from gan_lab.report.chapter.figures import draw, draw_samples

        for figure in chapter.figures:
            draw(figure, out)
        if chapter.samples:
            draw_samples(chapter.samples, out / "samples.png")
    if not given.no_page:
        html, _ = render(given.outputs, runs, damaged, None)
        write(out / "comparison.html", html)
    write(out / "chapter.md", chapter.markdown)
    drawn = {figure.name for figure in chapter.figures} | ({"samples.png"} if chapter.samples else set())
    for name in before - drawn:
        (out / name).unlink(missing_ok=True)


def _figures_beside(chapter: Path) -> set[str]:
    """The names of the figures of a chapter, empty if it was not written yet."""
    text = chapter.read_text(encoding="utf-8") if chapter.is_file() else ""
    return set(re.findall(r"!\[[^\n]*\]\(([^/()\n]+\.png)\)", text))
