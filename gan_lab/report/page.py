"""The comparison as one HTML file that needs no network: charts, tables and samples of many runs."""

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import gan_lab
from gan_lab.errors import UserError
from gan_lab.files import write_text
from gan_lab.report import grids, records
from gan_lab.report.comparison import (
    STEP_TIME,
    Scores,
    by_protocol,
    is_better_low,
    metrics,
    scores,
    title,
)
from gan_lab.report.downsampling import downsample
from gan_lab.report.packing import Pack, packed
from gan_lab.report.records import Record
from gan_lab.report.runs import (
    Damaged,
    Run,
    differing,
    find,
    setting_keys,
    settings,
    text,
    values,
    where,
)

NUMBERS_BUDGET = 1_750_000  # bytes of the page for series, where they do not compress at all
IMAGES_BUDGET = 700_000  # bytes of the images, a third more in base64
STRETCHES = (12, 120)  # into how many a series is cut at least and at most
MOST_RUNS_OF_GRIDS = 36

SHOWN = re.compile(
    r"loss/(d|g|penalty)|score/(real|fake)|grad_norm/[dg]|slope/(real|fake)_(mean|min|max)"
    r"|(grad_norm/d|grad_bound/d|sigma|weight_var|gamma)/.+|lipschitz/d"
)
SCRIPTS = ("statistics", "data", "groups", "charts", "sections", "main")
TARGETS = ("lecun", "xavier", "kaiming")


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
    facts, found = _facts(runs, damaged, pack)
    facts |= {
        "root": str(root),
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "version": gan_lab.__version__,
        "by": list(by) if by else None,
    }
    return _html(plotly, pack.finish(facts)), found


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError("the page needs plotly and duckdb: pip install 'gan-lab[report]'") from error
    return get_plotlyjs()


def _facts(
    runs: Sequence[Run], damaged: Sequence[Damaged], pack: Pack
) -> tuple[dict[str, Any], dict[str, Scores]]:
    """What the page's scripts are told, its long parts in `pack`; and the runs' scores."""
    entries, found, unread = _entries(runs, pack)
    unread += _add_grids(runs, entries, pack)
    parts = by_protocol(runs)
    for place, (_, members) in enumerate(parts):
        for run in members:
            entries[run.name]["protocol"] = place
    known = metrics(dict.fromkeys(name for reached in found.values() for name in reached.final))
    return {
        "runs": list(entries.values()),
        "damaged": [[trouble.name, trouble.reason] for trouble in (*damaged, *unread)],
        "protocols": [words for words, _ in parts],
        "metrics": [[name, title(name), is_better_low(name)] for name in known],
        "keys": [_key(runs, key) for key in dict.fromkeys(key for run in runs for key in run.config)],
        "differing": differing(runs),
        "settings": setting_keys(runs),
    }, found


def _entries(
    runs: Sequence[Run], pack: Pack
) -> tuple[dict[str, dict[str, Any]], dict[str, Scores], list[Damaged]]:
    """By the runs' names: what the page is told of each, its scores; and what could not be read."""
    unread: list[Damaged] = []
    seen: dict[str, dict[str, float | None]] = {}
    for run in runs:
        try:
            seen[run.name] = records.glimpse(run.directory.metrics)
        except UserError as error:
            seen[run.name] = {}
            unread.append(Damaged(run.name, str(error)))
    wanted = {run: [*filter(SHOWN.fullmatch, names), *metrics(names)] for run, names in seen.items()}
    stretches = _stretches(sum(map(len, wanted.values())))
    entries: dict[str, dict[str, Any]] = {}
    found: dict[str, Scores] = {}
    for run in runs:
        names, record = wanted[run.name], Record.empty()
        try:
            if names:
                timed = [STEP_TIME] if STEP_TIME in seen[run.name] else []
                record = records.read(run.directory.metrics, [*names, *timed])
        except UserError as error:
            unread.append(Damaged(run.name, str(error)))
        if record.complaint:
            unread.append(Damaged(run.name, record.complaint))
        found[run.name] = scores(record)
        entries[run.name] = _entry(run, found[run.name]) | {
            "series": _series(run, record, names, stretches, pack),
            "targets": _targets(seen[run.name]),
        }
    return entries, found, unread


def _stretches(series: int) -> int:
    """Into how many stretches so many series may be cut: three numbers each, of two bytes, in base64."""
    least, most = STRETCHES
    return min(most, max(least, int(NUMBERS_BUDGET / (3 * 2 * 4 / 3) / max(1, series))))


def _entry(run: Run, reached: Scores) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "finished": run.finished,
        "diverged": run.diverged,
        "iteration": run.iteration,
        "reason": run.reason,
        "seed": text(run.config.get("seed")),
        "hours": reached.hours,
        "final": reached.final,
        "best": reached.best,
    }


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
    """By layer, the variances that LeCun's, Xavier's and Kaiming's initializations aim at."""
    layers = [name.removeprefix("weight_var/") for name in seen if name.startswith("weight_var/")]
    return {layer: [seen.get(f"weight_var_{rule}/{layer}") for rule in TARGETS] for layer in layers}


def _add_grids(runs: Sequence[Run], entries: dict[str, dict[str, Any]], pack: Pack) -> list[Damaged]:
    """Give the entries their sample grids: every run's, or with many runs those of one of each setting."""
    chosen = list(runs)
    if len(runs) > MOST_RUNS_OF_GRIDS:
        keys = settings(runs)
        chosen = list({values(run, keys): run for run in reversed(runs)}.values())[::-1]
    sizes = [run.config.get("dataset.image_size") for run in chosen]
    folders = [
        (run.directory.samples, size if isinstance(size, int) else 0)
        for run, size in zip(chosen, sizes, strict=True)
    ]
    shrunk, unread = grids.shrink(folders, IMAGES_BUDGET)
    for run, some in zip(chosen, shrunk, strict=True):
        entries[run.name]["grids"] = [[grid.iteration, *pack.image(grid.webp)] for grid in some]
    return [Damaged("samples", reason) for reason in unread]


def _key(runs: Sequence[Run], key: str) -> list[Any]:
    """`[key, its distinct values, each run's among them]`; of a key that never differs, no third part."""
    of_runs = [values(run, [key])[0] for run in runs]
    distinct = list(dict.fromkeys(of_runs))
    return [key, distinct] if len(distinct) == 1 else [key, distinct, [distinct.index(v) for v in of_runs]]


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
