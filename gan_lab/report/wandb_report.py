"""The page's sections as a W&B report, for runs that W&B has (scripts/sync_wandb.py uploads them)."""

from collections.abc import Sequence
from typing import Any

from gan_lab.errors import UserError
from gan_lab.report import records, wandb_workspace
from gan_lab.report.comparison import Table, metrics
from gan_lab.report.runs import Run, settings
from gan_lab.report.sections import SCALE, Chart, Section, layers, sections
from gan_lab.report.swept import swept
from gan_lab.report.tables import as_markdown
from gan_lab.report.wandb_panels import (
    by_layer,
    grouping,
    names_in_wandb,
    over_iterations,
    pictures,
    require,
)
from gan_lab.tracking.base import reason

WIDTH = 24  # columns of W&B's grid of panels


def build(
    project: str, runs: Sequence[Run], tables: Sequence[Table], by: Sequence[str] | None, entity: str = ""
) -> Any:
    """The report as a `wandb_workspaces.reports.v2.Report`, not saved; nothing is asked of a server.

    Its charts show the W&B runs that have the names of these runs, grouped by the keys `by` (None: every
    setting that differs). Raises UserError without the wandb-workspaces package.
    """
    require()
    import wandb_workspaces.reports.v2 as wr

    keys = settings(runs) if by is None else by
    names = list(dict.fromkeys(name for run in runs for name in records.glimpse(run.directory.metrics)))
    chosen = f"Metric('Name') in {names_in_wandb(runs)!r}"

    def against(chart: Chart) -> Any:
        return wr.ScatterPlot(title=chart.title, x=wr.Config(over[0]), y=wr.SummaryMetric(chart.metric))

    def grid(panels: Sequence[Any], columns: int) -> Any:
        width = WIDTH // columns
        for place, panel in enumerate(panels):
            row, column = divmod(place, columns)
            panel.layout = wr.Layout(x=column * width, y=8 * row, w=width, h=8)
        runset = wr.Runset(entity=entity, project=project, filters=chosen, groupby=grouping(keys))
        return wr.PanelGrid(runsets=[runset], panels=list(panels))

    def content(section: Section) -> Any:
        match section.id:
            case "table":
                return wr.MarkdownBlock(as_markdown(tables))
            case "scale":
                return grid([against(chart) for chart in section.charts], 2)
            case "samples":
                return grid(pictures(), 2)
            case "layers":
                return grid(by_layer(section.charts, layers(names), names), 3)
            case "config":
                return grid([wr.RunComparer(diff_only="split")], 1)
        return grid([over_iterations(chart) for chart in section.charts], 2)

    over = sorted(swept(runs), key=lambda key: key != SCALE)
    blocks: list[Any] = []
    for section in sections(metrics(names), names, over):
        blocks += [wr.H2(section.title), content(section)]
    return wr.Report(project=project, entity=entity, title="Runs side by side", blocks=blocks, width="fluid")


def save(
    target: str,
    runs: Sequence[Run],
    tables: Sequence[Table],
    by: Sequence[str] | None,
    conditions: Sequence[str] = (),
) -> tuple[str, str]:
    """Write the report and the workspace to W&B, in `project` or `entity/project`; returns their URLs.

    `conditions` are those by which the runs were chosen. Raises UserError.
    """
    import wandb

    entity, _, project = target.rpartition("/")
    try:
        if not wandb.login(prompt=False):
            raise UserError("nobody is logged in to W&B: run `wandb login` first")
        api = wandb.Api()
        entity = entity or api.default_entity or ""
        report = build(project, runs, tables, by, entity)
        workspace = wandb_workspace.build(project, runs, by, entity, conditions)
        names = names_in_wandb(runs)
        if not len(api.runs(f"{entity}/{project}", filters={"display_name": {"$in": names}})):
            raise UserError(
                f"{target} holds none of these runs: bring them there with `python scripts/sync_wandb.py`"
            )
        report.save()
        wandb_workspace.save(workspace)
    except UserError:
        raise
    except Exception as error:  # the package lets through whatever the server or the network does
        raise UserError(
            f"the W&B report cannot be written to {target} ({reason(error)}): see to that"
        ) from error
    return str(report.url), str(workspace.url)
