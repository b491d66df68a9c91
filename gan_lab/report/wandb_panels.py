"""What the W&B report and the W&B workspace share: panels, and which of W&B's runs they show."""

from collections.abc import Sequence
from typing import Any

from gan_lab.errors import UserError
from gan_lab.report.runs import Run
from gan_lab.report.sections import Chart
from gan_lab.tracking.base import display_name


def require() -> None:
    """Raise UserError without the wandb-workspaces package."""
    try:
        import wandb_workspaces.reports.v2
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise UserError(
            "W&B reports and workspaces need wandb-workspaces: pip install -e '.[wandb-report]' in gan-lab's "
            "folder"
        ) from error


def over_iterations(chart: Chart, layer: str = "") -> Any:
    """A chart as lines over the iterations: the mean of each group of runs, with its band."""
    import wandb_workspaces.reports.v2 as wr

    bounds = [chart.bound] if chart.bound else []
    return wr.LinePlot(
        title=f"{layer}: {chart.title}" if layer else chart.title,
        x="iteration",
        title_x="iteration",
        y=[prefix + layer for prefix in (chart.metric, *bounds)],
        log_y=bool(chart.log),
        aggregate=True,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr" if chart.error else "minmax",
    )


def pictures() -> list[Any]:
    """A browser of the runs' sample grids, and one of the real images."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.MediaBrowser(title=title, media_keys=[key], num_columns=4)
        for title, key in (("Samples", "samples"), ("Real images", "real"))
    ]


def by_layer(charts: Sequence[Chart], layers: Sequence[str], names: Sequence[str]) -> list[Any]:
    """One panel for each layer and chart of which there is something among the metrics' `names`."""
    there = set(names)
    return [
        over_iterations(chart, layer) for layer in layers for chart in charts if chart.metric + layer in there
    ]


def grouping(keys: Sequence[str]) -> list[str]:
    """The config keys of a grouping as the package reads them."""
    return [f"config.{key}" for key in keys]


def names_in_wandb(runs: Sequence[Run]) -> list[str]:
    """What W&B calls these runs, each name once."""
    named = (
        display_name(
            run.directory.root, str(run.config.get("tracker._target_")), run.config.get("tracker.name")
        )
        for run in runs
    )
    return list(dict.fromkeys(named))
