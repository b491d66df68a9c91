"""The comparison as one HTML file that needs no network: charts, tables and samples of many runs."""

import base64
import dataclasses
import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

import gan_lab
from gan_lab.errors import UserError
from gan_lab.files import write_text
from gan_lab.report import grids, records
from gan_lab.report.comparison import (
    BEST,
    FINAL,
    STEP_TIME,
    Scores,
    compare,
    measured,
    metrics,
    scores,
)
from gan_lab.report.differences import all_differences, note
from gan_lab.report.downsampling import downsample
from gan_lab.report.groupings import groupings
from gan_lab.report.packing import Pack, packed
from gan_lab.report.records import Record
from gan_lab.report.runs import (
    Damaged,
    Run,
    differing,
    find,
    one_of_each,
    passed_over,
    text,
    value,
    where,
)
from gan_lab.report.sections import SCALE, TARGETS, is_shown, layers, sections
from gan_lab.report.swept import swept
from gan_lab.runs.directory import DIVERGED

NUMBERS_BUDGET = 1_750_000  # bytes of the page for series, where they do not compress at all
IMAGES_BUDGET = 700_000  # bytes of the images, a third more in base64
STRETCHES = (12, 120)  # into how many a series is cut at least and at most
MOST_RUNS_OF_GRIDS = 36

FOOT = "Written by gan-lab {version} from the run directories only. This page loads nothing from anywhere."
SCRIPTS = ("data", "groups", "charts", "sections", "main")


def write_page(root: Path, out: Path) -> Path:
    """Write the page about all runs below `root`; returns its path, `out`.

    Damaged runs are named on the page. Raises UserError without a run, or where the page cannot be written.
    """
    runs, damaged = find(root)
    html, _ = render(root, where(runs, ()), damaged, by=None)
    write(out, html)
    return out


def write(out: Path, text: str) -> None:
    """Write a result whole or not at all; raises UserError where that cannot be."""
    if out.exists() and not out.resolve().is_file():  # a device, which a whole file would replace
        raise UserError(f"{out} is no file: give another")
    try:
        write_text(out.resolve(), text)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): give another file") from error


def render(
    root: Path, runs: Sequence[Run], damaged: Sequence[Damaged], by: Sequence[str] | None
) -> tuple[str, dict[str, Scores]]:
    """The page, and the runs' scores by their names, for which the metrics need not be read again.

    `by` are config keys to group by at first, None for every setting that differs.
    """
    plotly = _plotly()
    pack = Pack()
    facts, found = _facts(runs, damaged, by, pack)
    facts |= {"about": _about(root, runs), "foot": FOOT.format(version=gan_lab.__version__)}
    return _html(plotly, pack.finish(facts)), found


def _about(root: Path, runs: Sequence[Run]) -> str:
    """How many runs there are, where, in which states, and when that was."""
    states = Counter(_state(run) for run in runs)
    count = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    listed = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{count} in {root}: {listed} · {time.strftime('%Y-%m-%d %H:%M')}"


def _state(run: Run) -> str:
    return DIVERGED if run.diverged else run.state


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(
            "the page needs plotly and duckdb: pip install -e '.[report]' in gan-lab's folder"
        ) from error
    return get_plotlyjs()


def _facts(
    runs: Sequence[Run], damaged: Sequence[Damaged], by: Sequence[str] | None, pack: Pack
) -> tuple[dict[str, Any], dict[str, Scores]]:
    """What the page's scripts are told, its long parts in `pack`; and the runs' scores."""
    entries, found, unread = _entries(runs, pack)
    unread += _add_grids(runs, entries, pack)
    troubles = [[trouble.name, trouble.reason] for trouble in (*damaged, *unread)]
    names = list(dict.fromkeys(name for entry in entries.values() for name in entry["series"]))
    lines = swept(runs)
    compared = all_differences(compare(runs, found, by))
    place = {run.name: number for number, run in enumerate(runs)}
    shown = sections(
        measured(found.values()),
        names,
        list(lines),
        samples=any(entry.get("grids") for entry in entries.values()),
        damaged=bool(troubles),
        differences=note("the best", compared[0][1].ratios) if compared else "",
    )
    return {
        "runs": list(entries.values()),
        "sections": [dataclasses.asdict(section) for section in shown],
        "layers": layers(names),
        "targets": list(TARGETS),
        "swept": [
            [
                key,
                [
                    [line.label, [[x, [place[run.name] for run in some]] for x, some in line.points.items()]]
                    for line in lines[key]
                ],
            ]
            for key in sorted(lines, key=lambda key: key != SCALE)
        ],
        "columns": _columns_of_differences(runs),
        "differences": [
            [" · ".join(filter(None, (table.title, f"to {one.best.label}"))), one.head, one.rows()]
            for table, one in compared
        ],
        "damaged": troubles,
        "copies": passed_over(runs),
        **groupings(runs, found, by),
    }, found


def _columns_of_differences(runs: Sequence[Run]) -> list[list[str]]:
    """`[heading, key]` of each config key that differs; keys that say the same share a column."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for key in differing(runs):
        columns.setdefault(tuple(value(run, key) for run in runs), []).append(key)
    return [[" = ".join(keys), keys[0]] for keys in columns.values()]


def _entries(
    runs: Sequence[Run], pack: Pack
) -> tuple[dict[str, dict[str, Any]], dict[str, Scores], list[Damaged]]:
    """By the runs' names: what the page is told of each, its scores; and what could not be read."""
    unread: list[Damaged] = []
    seen: dict[str, dict[str, float | None]] = {}
    for run in runs:
        try:
            seen[run.name] = records.glimpse(run.directory.metrics)
        except records.Unreadable as error:
            seen[run.name] = {}
            unread.append(Damaged(run.name, str(error)))
    wanted = {run: [*filter(is_shown, names), *metrics(names)] for run, names in seen.items()}
    stretches = _stretches(sum(map(len, wanted.values())))
    short = _short_names([run.name for run in runs])
    entries: dict[str, dict[str, Any]] = {}
    found: dict[str, Scores] = {}
    for run in runs:
        names, record = wanted[run.name], Record.empty()
        try:
            if names:
                timed = [STEP_TIME] if STEP_TIME in seen[run.name] else []
                record = records.read(run.directory.metrics, [*names, *timed])
        except records.Unreadable as error:
            unread.append(Damaged(run.name, str(error)))
        if record.complaint:
            unread.append(Damaged(run.name, record.complaint))
        found[run.name] = scores(record)
        entries[run.name] = _entry(run, found[run.name], short[run.name]) | {
            "series": _series(run, record, names, stretches, pack),
            "targets": _targets(seen[run.name]),
        }
    return entries, found, unread


def _stretches(series: int) -> int:
    """Into how many stretches so many series may be cut: three numbers each, of two bytes, in base64."""
    least, most = STRETCHES
    return min(most, max(least, int(NUMBERS_BUDGET / (3 * 2 * 4 / 3) / max(1, series))))


def _entry(run: Run, reached: Scores, short: str) -> dict[str, Any]:
    return {
        "name": run.name,
        "short": short,
        "title": f"{run.name}: {run.reason}" if run.reason else run.name,
        "badge": "" if run.finished else _state(run),
        "seed": text(run.config.get("seed")),
        "scores": {FINAL: reached.final, BEST: reached.best} if run.finished else {FINAL: {}, BEST: {}},
    }


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The runs' names without the folders that all of them lie in."""
    parents = [PurePath(name).parent for name in names]
    common = os.path.commonpath(parents)
    return {name: str(PurePath(name).relative_to(common)) for name in names}


def _series(
    run: Run, record: Record, names: Sequence[str], stretches: int, pack: Pack
) -> dict[str, list[float]]:
    last = max(run.iterations, run.iteration, 1)
    thinned = {
        name: downsample(record.iteration, record.columns[name], stretches, last)
        for name in names
        if name in record.columns
    }
    return {name: pack.series(series) for name, series in thinned.items() if len(series.mean)}


def _targets(seen: dict[str, float | None]) -> dict[str, list[float | None]]:
    """By layer, the variances that the initializations aim at."""
    names = [name.removeprefix("weight_var/") for name in seen if name.startswith("weight_var/")]
    return {layer: [seen.get(target + layer) for target in TARGETS.values()] for layer in names}


def _add_grids(runs: Sequence[Run], entries: dict[str, dict[str, Any]], pack: Pack) -> list[Damaged]:
    """Give the entries their sample grids: every run's, or with many runs those of one of each setting."""
    chosen = list(runs)
    if len(runs) > MOST_RUNS_OF_GRIDS:
        chosen = one_of_each(runs)
    folders = [(run.directory.samples, grids.side_of(run)) for run in chosen]
    shrunk, unread = grids.shrink(folders, IMAGES_BUDGET)
    for run, some in zip(chosen, shrunk, strict=True):
        entries[run.name]["grids"] = [[grid.iteration, *pack.image(grid.webp)] for grid in some]
    return [Damaged("samples", reason) for reason in unread]


def _html(plotly: str, data: str) -> str:
    """The template filled in; its policy allows these two scripts, and nothing from outside."""
    assets = resources.files("gan_lab.report") / "assets"
    sources = ((assets / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = "\n".join(["'use strict';", "(() => {", *sources, "})();"])
    parts = {
        "policy": f"default-src 'none'; script-src {_hash(script)} {_hash(plotly)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'",
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": script,
        "plotly": packed(plotly.encode()),
        "data": data,
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
