"""The W&B workspace: its specification, and what a stand-in for the server keeps of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import LAYERS, make_run
from wandb_server import WandbServer, serving_this_process

from gan_lab.commands.compare import main as compare
from gan_lab.commands.sync_wandb import main as sync
from gan_lab.report import wandb_workspace
from gan_lab.report.runs import find

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the package's own


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two norms; the second run has a name of its own in W&B."""
    root = tmp_path_factory.mktemp("outputs")
    tracker = {"name": "mine", "_target_": "gan_lab.tracking.wandb.WandbTracker", "mode": "auto"}
    make_run(root, "ssn", rows=8, norm__scale=1.0)
    make_run(root, "bssn", rows=8, norm__scale=1.2, tracker=tracker)
    return root


@pytest.fixture(scope="module")
def written(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """A server that holds the runs, and what three commands wrote: two alike, and one of some of the runs."""
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    with pytest.MonkeyPatch.context() as patch, serving_this_process(patch, netrc) as server:
        assert sync([str(outputs)]) == 0
        for options in ([], [], ["--by", "norm.scale", "--where", "norm.scale=1.2"]):
            assert compare([str(outputs), "--wandb", "gan-lab", *options]) == 0
        yield server


def saved(server: WandbServer) -> list[dict[str, Any]]:
    """The specifications of the workspaces that the server holds."""
    views = [view for view in server.views.values() if view["type"] == "project-view"]
    return [json.loads(view["spec"])["section"] | {"name": view["displayName"]} for view in views]


def test_it_answers_in_order(written: WandbServer) -> None:
    spec, _ = saved(written)
    sections = spec["panelBankConfig"]["sections"]
    assert [(section["name"], section["isOpen"]) for section in sections] == [
        ("FID and IS by norm", True),
        ("Samples", True),
        ("Gradients and bounds", True),
        ("Layer by layer", False),
        ("Losses, scores and speed", False),
    ]
    assert spec["settings"]["shouldAutoGeneratePanels"] is False
    assert spec["settings"]["xAxis"] == "iteration"


def test_its_panels_show_what_the_server_was_sent(written: WandbServer) -> None:
    """Each metric that is drawn is a column of the runs' rows, each bar a value of their summaries."""
    spec, _ = saved(written)
    panels = [panel for part in spec["panelBankConfig"]["sections"] for panel in part["panels"]]
    lines, bars = (
        [panel["config"] for panel in panels if panel["viewType"] == kind]
        for kind in ("Run History Line Plot", "Bar Chart")
    )
    for run in written.runs.values():
        logged = {name for row in run.rows for name in row}
        for panel in lines:
            assert set(panel["metrics"]) <= logged
            assert panel["xAxis"] == "iteration"
        for panel in bars:
            assert {name.removeprefix("summary_metrics.") for name in panel["metrics"]} <= run.summary.keys()
    assert {panel["groupBy"] for panel in bars} == {"norm.value.name"}
    assert [panel["metrics"] for panel in bars] == [
        ["summary_metrics.metric/fid"], ["summary_metrics.best/fid"],
        ["summary_metrics.metric/is_mean"], ["summary_metrics.best/is_mean"],
    ]  # fmt: skip
    bounded = [panel["metrics"] for panel in lines if any("grad_bound/" in name for name in panel["metrics"])]
    assert bounded == [[f"grad_norm/d/{layer}", f"grad_bound/d/{layer}"] for layer in LAYERS]
    assert not any("weight_var_" in name for panel in lines for name in panel["metrics"])  # constants


def test_it_groups_by_what_differs_and_hides_what_was_replaced(written: WandbServer) -> None:
    (runset,) = saved(written)[0]["runSets"]
    assert [key["name"] for key in runset["grouping"]] == ["norm.value.name"]
    (shown,) = runset["filters"]["filters"]
    assert (shown["key"]["name"], shown["op"], shown["value"]) == ("tags", "NIN", ["abandoned"])


def test_a_part_of_the_runs_has_a_workspace_of_its_own(written: WandbServer) -> None:
    _, part = saved(written)  # two, though three commands wrote one: the second replaced the first's
    assert part["name"] == "FID and IS by norm where norm.scale is 1.2"
    (runset,) = part["runSets"]
    assert [key["name"] for key in runset["grouping"]] == ["norm.value.scale"]
    (shown,) = runset["filters"]["filters"]
    assert (shown["key"]["name"], shown["value"]) == ("displayName", ["mine"])
    assert "mine" in [run.facts["displayName"] for run in written.runs.values()]


def test_what_was_never_measured_has_no_section(tmp_path: Path) -> None:
    make_run(tmp_path, rows=4, evaluations=1, probe_every=10**6)
    runs, _ = find(tmp_path)
    workspace = wandb_workspace.build("gan-lab", runs)
    assert all(section.panels for section in workspace.sections)
