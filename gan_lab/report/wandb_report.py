"""The page's sections as a W&B report, for runs that W&B has (scripts/sync_wandb.py uploads them)."""

from collections.abc import Sequence
from typing import Any

from gan_lab.errors import UserError
from gan_lab.report import records
from gan_lab.report.comparison import Table, metrics
from gan_lab.report.runs import Run, settings
from gan_lab.report.sections import SCALE, Chart, Section, layers, sections
from gan_lab.report.swept import swept
from gan_lab.report.tables import as_markdown

WIDTH = 24  # columns of W&B's grid of panels


def build(
    project: str, runs: Sequence[Run], tables: Sequence[Table], by: Sequence[str] | None, entity: str = ""
) -> Any:
    """The report as a `wandb_workspaces.reports.v2.Report`, not saved; nothing is asked of a server.

    Its charts show the W&B runs that have the names of these runs, grouped by the keys `by` (None: every
    setting that differs). Raises UserError without the wandb-workspaces package.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError as error:
        raise UserError(
            "a W&B report needs wandb-workspaces: pip install -e '.[wandb-report]' in gan-lab's folder"
        ) from error
    keys = settings(runs) if by is None else by
    names = list(dict.fromkeys(name for run in runs for name in records.glimpse(run.directory.metrics)))
    chosen = f"Metric('Name') in {_names(runs)!r}"

    def over_iterations(chart: Chart, layer: str = "") -> Any:
        beside = [chart.bound] if chart.bound else []
        return wr.LinePlot(
            title=f"{layer}: {chart.title}" if layer else chart.title,
            x="iteration",
            title_x="iteration",
            y=[prefix + layer for prefix in (chart.metric, *beside)],
            log_y=bool(chart.log),
            aggregate=True,
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr" if chart.error else "minmax",
        )

    def against(chart: Chart) -> Any:
        return wr.ScatterPlot(title=chart.title, x=wr.Config(over[0]), y=wr.SummaryMetric(chart.metric))

    def grid(panels: Sequence[Any], columns: int) -> Any:
        width = WIDTH // columns
        for place, panel in enumerate(panels):
            row, column = divmod(place, columns)
            panel.layout = wr.Layout(x=column * width, y=8 * row, w=width, h=8)
        runset = wr.Runset(
            entity=entity, project=project, filters=chosen, groupby=[f"config.{key}" for key in keys]
        )
        return wr.PanelGrid(runsets=[runset], panels=list(panels))

    def content(section: Section) -> Any:
        match section.id:
            case "table":
                return wr.MarkdownBlock(as_markdown(tables))
            case "scale":
                return grid([against(chart) for chart in section.charts], 2)
            case "samples":
                media = wr.MediaBrowser(title=section.title, media_keys=["samples"], num_columns=4)
                return grid([media], 1)
            case "layers":
                by_layer = [(chart, layer) for layer in layers(names) for chart in section.charts]
                there = [(chart, layer) for chart, layer in by_layer if chart.metric + layer in names]
                return grid([over_iterations(chart, layer) for chart, layer in there], 3)
            case "config":
                return grid([wr.RunComparer(diff_only="split")], 1)
        return grid([over_iterations(chart) for chart in section.charts], 2)

    over = sorted(swept(runs), key=lambda key: key != SCALE)
    blocks: list[Any] = []
    for section in sections(metrics(names), names, over):
        blocks += [wr.H2(section.title), content(section)]
    return wr.Report(project=project, entity=entity, title="Runs side by side", blocks=blocks, width="fluid")


def _names(runs: Sequence[Run]) -> list[str]:
    """What W&B calls them."""
    return ["/".join(run.directory.root.parts[-4:]) for run in runs]


def save(target: str, runs: Sequence[Run], tables: Sequence[Table], by: Sequence[str] | None) -> str:
    """Write the report to W&B, in `project` or `entity/project`; returns its URL, raises UserError."""
    import wandb

    entity, _, project = target.rpartition("/")
    try:
        if not wandb.login(prompt=False):
            raise UserError("nobody is logged in to W&B: run `wandb login` first")
        api = wandb.Api()
        entity = entity or api.default_entity or ""
        report = build(project, runs, tables, by, entity)
        if not len(api.runs(f"{entity}/{project}", filters={"display_name": {"$in": _names(runs)}})):
            raise UserError(
                f"{target} holds none of these runs: bring them there with `python scripts/sync_wandb.py`"
            )
        report.save()
    except UserError:
        raise
    except Exception as error:  # the package lets through whatever the server or the network does
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"the W&B report cannot be written to {target} ({reason}): see to that") from error
    return str(report.url)
