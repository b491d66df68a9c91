"""The W&B workspace that answers which norm wins: FID and IS by norm, then samples, gradients, layers."""

import contextlib
import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

from gan_lab.report import records
from gan_lab.report.comparison import is_better_low, metrics
from gan_lab.report.runs import Run, settings
from gan_lab.report.sections import Chart, layers, sections
from gan_lab.report.wandb_panels import (
    by_layer,
    names_in_wandb,
    over_iterations,
    pictures,
    require,
)

TITLE = "FID and IS by norm"
GRADIENTS = (
    "grad_norm/",
    "slope/",
    "lipschitz/",
    "curvature/",
    "operator_norm_spread/",
)  # what the metrics begin with of the paper's argument
SPEED = Chart("Real images a second", "speed/images_per_s")


def build(
    project: str,
    runs: Sequence[Run],
    by: Sequence[str] | None = None,
    entity: str = "",
    conditions: Sequence[str] = (),
) -> Any:
    """The workspace as a `wandb_workspaces.workspaces.Workspace`, not saved; nothing is asked of a server.

    It shows all of the project's runs that no other has replaced, later ones too, grouped by the keys `by`
    (None: every setting that differs in `runs`). With `conditions` it shows `runs` only, which they chose.
    Its name in the project follows from the conditions, so that saving it again replaces it. Raises UserError
    without the wandb-workspaces package.
    """
    require()
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    names = list(dict.fromkeys(name for run in runs for name in records.glimpse(run.directory.metrics)))
    judged = metrics(names)
    charts = {section.id: section.charts for section in sections(judged, names, ())}
    training, of_layers = charts.get("training", ()), charts.get("layers", ())

    def section(title: str, panels: Sequence[Any], columns: int, is_open: bool = True) -> Any:
        layout = ws.SectionLayoutSettings(columns=columns, rows=max(1, -(-len(panels) // columns)))
        return ws.Section(name=title, panels=list(panels), is_open=is_open, layout_settings=layout)

    def by_norm(title: str, name: str) -> Any:
        return wr.BarPlot(
            title=title,
            metrics=[wr.SummaryMetric(name)],
            groupby=wr.Config("norm.name"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        )

    scores = [
        panel
        for chart in charts.get("metrics", ())
        for panel in (
            over_iterations(chart),
            by_norm(f"{chart.title}, the last", chart.metric),
            by_norm(f"{chart.title}, the best", best(chart.metric)),
        )
    ]
    found = [
        section(TITLE, scores, 3),
        section("Samples", pictures(), 2),
        section(
            "Gradients and bounds",
            [over_iterations(chart) for chart in training if chart.metric.startswith(GRADIENTS)]
            + by_layer([chart for chart in of_layers if chart.bound], layers(names), names),
            3,
        ),
        section(
            "Layer by layer",
            by_layer([chart for chart in of_layers if not chart.bound], layers(names), names),
            3,
            False,
        ),
        section(
            "Losses, scores and speed",
            [
                over_iterations(chart)
                for chart in (*training, SPEED)
                if chart.metric in names and not chart.metric.startswith(GRADIENTS)
            ],
            3,
            False,
        ),
    ]
    chosen = (
        f"Metric('Name') in {names_in_wandb(runs)!r}" if conditions else "Metric('Tags') not in ['abandoned']"
    )
    # The package takes every symbol in a name for an emoji and refuses it, = too.
    spoken = (condition.replace("=", " is ") for condition in conditions)
    title = " where ".join([TITLE, *([" and ".join(spoken)] if conditions else [])])
    columns = [f"summary:{name}" for metric in judged for name in (metric, best(metric))]
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name="".join(" " if unicodedata.category(letter).startswith("S") else letter for letter in title),
        sections=[section for section in found if section.panels],
        settings=ws.WorkspaceSettings(x_axis="iteration", max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=chosen,
            order=[ws.Ordering(ws.Summary(metric), is_better_low(metric)) for metric in judged[:1]],
            groupby=[ws.Config(key) for key in (settings(runs) if by is None else by)],
            pinned_columns=["run:displayName", "run:state", *columns],
        ),
    )
    digest = hashlib.sha256(title.encode()).hexdigest()[:8]
    workspace._internal_name = f"nw-ganlab{digest}-v"  # the package draws one at random otherwise
    return workspace


def best(metric: str) -> str:
    """What the best value of a metric is called in W&B's summary."""
    return metric.replace("metric/", "best/", 1)


def save(workspace: Any) -> None:
    """Write it to W&B, in the place of an earlier one of its name."""
    with contextlib.suppress(ValueError):  # there is none, or one that this package cannot read
        workspace._internal_id = type(workspace).from_url(workspace.url)._internal_id
    workspace.save()
