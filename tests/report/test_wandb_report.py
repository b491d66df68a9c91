"""The W&B report's specification, built offline; no server has seen it."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import LAYERS, make_sweep

from gan_lab.errors import UserError
from gan_lab.report import wandb_report
from gan_lab.report.comparison import compare, read_scores
from gan_lab.report.runs import find

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the package's own


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    make_sweep(root, ["ssn", "bssn"], [1.0, 1.2], seeds=2, rows=30, grids=0)
    return root


@pytest.fixture
def blocks(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The report as it would be sent, made without a network."""
    monkeypatch.setattr(socket, "socket", None)
    runs, _ = find(outputs)
    tables = compare(runs, read_scores(runs)[0], None)
    report = wandb_report.build("gan-lab", runs, tables, None)
    spec = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return spec["blocks"]


def panels(blocks: list[dict[str, Any]], heading: str) -> list[dict[str, Any]]:
    titles = [block["children"][0].get("text") if block["type"] == "heading" else None for block in blocks]
    grid = blocks[titles.index(heading) + 1]
    assert grid["type"] == "panel-grid"
    return grid["metadata"]["panelBankSectionConfig"]["panels"]


def test_the_sections_are_those_of_the_page(blocks: list[dict[str, Any]]) -> None:
    headings = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    assert headings == [
        "Summary",
        "FID and IS over training",
        "Metric against scale",
        "Samples",
        "Losses, slopes and gradients",
        "Layer by layer",
        "What differs",
    ]
    table = next(block["content"] for block in blocks if block["type"] == "markdown-block")
    assert "Welch" in table
    assert "bssn · scale=1.2" in table


def test_the_charts_show_the_recorded_names(blocks: list[dict[str, Any]]) -> None:
    scores = panels(blocks, "FID and IS over training")
    assert [panel["config"]["metrics"] for panel in scores] == [["metric/fid"], ["metric/is_mean"]]
    assert {panel["config"]["groupArea"] for panel in scores} == {"stderr"}
    against = panels(blocks, "Metric against scale")
    assert [(panel["config"]["xAxis"], panel["config"]["yAxis"]) for panel in against] == [
        ("config:norm.value.scale", "summary:metric/fid"),
        ("config:norm.value.scale", "summary:metric/is_mean"),
    ]
    layers = [panel["config"]["metrics"] for panel in panels(blocks, "Layer by layer")]
    assert len(layers) == 3 * len(LAYERS)
    assert ["grad_norm/d/conv0", "grad_bound/d/conv0"] in layers
    assert ["weight_var/conv0"] in layers  # the initializations' targets are constants, in the summary
    assert panels(blocks, "Samples")[0]["config"]["mediaKeys"] == ["samples"]
    assert panels(blocks, "What differs")[0]["viewType"] == "Run Comparer"


def test_panels_do_not_overlap(blocks: list[dict[str, Any]]) -> None:
    for block in blocks:
        if block["type"] != "panel-grid":
            continue
        taken: set[tuple[int, int]] = set()
        for panel in block["metadata"]["panelBankSectionConfig"]["panels"]:
            box = panel["layout"]
            cells = {
                (x, y)
                for x in range(box["x"], box["x"] + box["w"])
                for y in range(box["y"], box["y"] + box["h"])
            }
            assert not cells & taken
            assert box["x"] + box["w"] <= wandb_report.WIDTH
            taken |= cells


def test_it_shows_these_runs_grouped_by_their_settings(blocks: list[dict[str, Any]], outputs: Path) -> None:
    (runset,) = next(block for block in blocks if block["type"] == "panel-grid")["metadata"]["runSets"]
    (chosen,) = runset["filters"]["filters"]
    assert chosen["key"] == {"section": "run", "name": "displayName"}
    assert sorted(chosen["value"]) == sorted(run.name for run in find(outputs)[0])
    assert [key["name"] for key in runset["grouping"]] == ["norm.value.name", "norm.value.scale"]


def test_a_project_without_these_runs_is_no_success(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        default_entity = "someone"

        def runs(self, path: str, filters: Any) -> list[Any]:
            assert path == "someone/gan-lab"
            return []

    monkeypatch.setattr("wandb.login", lambda **_: True)
    monkeypatch.setattr("wandb.Api", Api)
    with pytest.raises(UserError, match="holds none of these runs"):
        wandb_report.save("gan-lab", find(outputs)[0], [], None)


def test_without_a_login_it_says_so(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wandb.login", lambda **_: False)
    with pytest.raises(UserError, match="wandb login"):
        wandb_report.save("gan-lab", find(outputs)[0], [], None)
