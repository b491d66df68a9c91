"""The norm of examples/norm, joined from outside the package through the command line alone."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gan_lab import norms
from gan_lab.config import compose
from gan_lab.norms.audit import audit
from gan_lab.run import run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/norm"


def test_it_trains_by_train_py_and_keeps_its_promise(
    tiny: list[str], tmp_path: Path, train_py: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    choices = ["norm=schur", "norm.scale=1.5", "train.iterations=6", "probes.every=2", "probes.audit_every=6"]
    done = train_py("--config-dir", str(EXAMPLE / "configs"), *choices, *tiny)
    assert done.returncode == 0, done.stderr
    (directory,) = (tmp_path / "outputs/digits/dcgan/schur").glob("seed0-*")
    assert json.loads((directory / "status.json").read_text())["state"] == "finished"
    last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
    for layer in [*(f"conv{index}" for index in range(7)), "linear"]:
        row, column, sigma = (last[f"{name}/{layer}"] for name in ("row_sum", "column_sum", "sigma"))
        assert sigma == pytest.approx((row * column) ** 0.5)
        assert 0 < last[f"operator_norm/{layer}"] <= 1.5 * (1 + 1e-6)
        assert last[f"grad_norm/d/{layer}"] <= last[f"grad_bound/d/{layer}"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(4, 6, 4, stride=2, groups=2),
        nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1),
    ],
)
def test_the_sums_are_those_of_the_operators_matrix(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, where one row and one column are whole; and so they bound its norm."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    estimator = importlib.import_module("schur_norm").SchurBound(layer)
    shape = (layer.in_channels, 8, 8)
    basis = torch.eye(int(np.prod(shape))).reshape(-1, *shape)
    matrix = (layer(basis) - layer(0 * basis)).detach().flatten(1).abs().double().numpy()
    weight = layer.weight.detach()
    sums = {name: value.item() for name, value in estimator.parts(weight).items()}
    if layer.stride == (1, 1):
        assert sums == pytest.approx(
            {"row_sum": matrix.sum(0).max(), "column_sum": matrix.sum(1).max()}, rel=1e-5
        )
    assert matrix.sum(0).max() <= sums["row_sum"] * (1 + 1e-6)
    assert matrix.sum(1).max() <= sums["column_sum"] * (1 + 1e-6)
    net = nn.Sequential(layer)
    norms.normalize(net, type(estimator))
    assert audit(net, torch.zeros(1, *shape)).layers[0].operator_norm <= 1 + 1e-6
    norms.remove(net)


def test_its_file_says_only_what_differs_from_other_norms() -> None:
    ours, theirs = (compose([f"norm={name}"], EXAMPLE / "configs").norm for name in ("schur", "sn"))
    own = {"name": "schur", "estimator": {"_target_": "schur_norm.SchurBound"}, "warmup_iterations": 0}
    assert ours == {**theirs, **own}


def test_without_its_folder_on_the_path_it_says_so(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "schur_norm", raising=False)
    assert run(compose(["norm=schur", *tiny], EXAMPLE / "configs")).exit_status == 2
    message = capsys.readouterr().err
    assert "schur_norm" in message
    assert message.count("\n") == 1
