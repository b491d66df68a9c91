"""The page's sections as a W&B report, for runs that W&B has (`wandb sync` uploads offline ones)."""

from collections.abc import Iterable, Sequence
from typing import Any

from gan_lab.errors import UserError
from gan_lab.report import records
from gan_lab.report.comparison import Table, is_better_low, metrics, title
from gan_lab.report.runs import Run, settings
from gan_lab.report.tables import as_markdown

WIDTH = 24  # columns of W&B's grid of panels
TRAINING = {
    "loss/d": "Discriminator's loss",
    "loss/g": "Generator's loss",
    "grad_norm/d": "Gradient norm of the discriminator",
    "grad_norm/g": "Gradient norm of the generator",
    "slope/real_mean": "Slopes at real images",
    "slope/fake_mean": "Slopes at generated images",
}
TARGETS = ("weight_var_lecun", "weight_var_xavier", "weight_var_kaiming")


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
        raise UserError("a W&B report needs wandb-workspaces: pip install 'gan-lab[wandb-report]'") from error
    keys = settings(runs) if by is None else by
    names = list(dict.fromkeys(name for run in runs for name in records.glimpse(run.directory.metrics)))
    chosen = "Metric('Name') in " + repr(["/".join(run.directory.root.parts[-4:]) for run in runs])

    def over_iterations(metric: str, heading: str, log: bool = False, also: Iterable[str] = ()) -> Any:
        return wr.LinePlot(
            title=heading,
            x="Step",
            title_x="iteration",
            y=[metric, *also],
            log_y=log,
            aggregate=True,
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr" if metric.startswith("metric/") else "minmax",
        )

    def grid(panels: Sequence[Any], columns: int) -> Any:
        width = WIDTH // columns
        for place, panel in enumerate(panels):
            row, column = divmod(place, columns)
            panel.layout = wr.Layout(x=column * width, y=8 * row, w=width, h=8)
        runset = wr.Runset(
            entity=entity, project=project, filters=chosen, groupby=[f"config.{key}" for key in keys]
        )
        return wr.PanelGrid(runsets=[runset], panels=list(panels))

    judged = [(name, f"{title(name)} {'↓' if is_better_low(name) else '↑'}") for name in metrics(names)]
    layers = [name.removeprefix("weight_var/") for name in names if name.startswith("weight_var/")]
    sections: dict[str, tuple[list[Any], int]] = {
        "FID and IS over training": ([over_iterations(name, words) for name, words in judged], 2)
    }
    if "norm.scale" in keys:
        sections["Metric against scale"] = (
            [
                wr.ScatterPlot(
                    title=f"{words} against the scale",
                    x=wr.Config("norm.scale"),
                    y=wr.SummaryMetric(f"{name}.last" if is_better_low(name) else name),
                )
                for name, words in judged
            ],
            2,
        )
    sections["Samples"] = ([wr.MediaBrowser(title="Samples", media_keys=["samples"], num_columns=4)], 1)
    sections["Losses, slopes and gradients"] = (
        [
            over_iterations(name, words, log=not name.startswith("loss"))
            for name, words in TRAINING.items()
            if name in names
        ],
        2,
    )
    sections["Layer by layer"] = (
        [
            panel
            for layer in layers
            for panel in (
                over_iterations(
                    f"grad_norm/d/{layer}", f"{layer}: gradient", True, [f"grad_bound/d/{layer}"]
                ),
                over_iterations(f"sigma/{layer}", f"{layer}: sigma"),
                over_iterations(
                    f"weight_var/{layer}",
                    f"{layer}: weight variance",
                    True,
                    [f"{target}/{layer}" for target in TARGETS],
                ),
            )
        ],
        3,
    )
    sections["What differs"] = ([wr.RunComparer(diff_only="split")], 1)

    blocks: list[Any] = [wr.H2("Summary"), wr.MarkdownBlock(as_markdown(tables))]
    for heading, (panels, columns) in sections.items():
        if panels:
            blocks += [wr.H2(heading), grid(panels, columns)]
    return wr.Report(project=project, entity=entity, title="Runs side by side", blocks=blocks, width="fluid")


def save(target: str, runs: Sequence[Run], tables: Sequence[Table], by: Sequence[str] | None) -> str:
    """Write the report to W&B, in `project` or `entity/project`; returns its URL, raises UserError."""
    import wandb

    entity, _, project = target.rpartition("/")
    try:
        if not wandb.login(prompt=False):
            raise UserError("nobody is logged in to W&B: run `wandb login` first")
        report = build(project, runs, tables, by, entity or wandb.Api().default_entity or "")
        report.save()
    except UserError:
        raise
    except Exception as error:  # the package lets through whatever the server or the network does
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"the W&B report cannot be written to {target} ({reason}): see to that") from error
    return str(report.url)
