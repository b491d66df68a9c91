"""The architecture of examples/arch, joined from outside the package through the command line alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_lab.config import compose
from gan_lab.errors import UserError
from gan_lab.load import load
from gan_lab.run import run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/arch"


def test_it_trains_by_train_py_and_generates_where_it_is_allowed(
    tiny: list[str], tmp_path: Path, train_py: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    choices = ["arch=mlp", "norm=strict_sn", "loss=wgan_gp", "train.iterations=5"]
    done = train_py("--config-dir", str(EXAMPLE / "configs"), *choices, *tiny)
    assert done.returncode == 0, done.stderr
    (directory,) = (tmp_path / "outputs/digits/mlp/strict_sn").glob("seed0-*")
    assert json.loads((directory / "status.json").read_text())["state"] == "finished"
    last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
    assert {f"sigma/linear{number}" for number in (1, 2, 3)} <= last.keys()

    monkeypatch.syspath_prepend(str(EXAMPLE))
    with pytest.raises(UserError, match="--allow mlp_pair"):
        load(directory, torch.device("cpu"))
    images = load(directory, torch.device("cpu"), allow=["mlp_pair"]).generate(0, 4, "samples")
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == torch.uint8


def test_without_its_folder_on_the_path_it_says_so(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mlp_pair", raising=False)
    assert run(compose(["arch=mlp", *tiny], EXAMPLE / "configs")).exit_status == 2
    message = capsys.readouterr().err
    assert "mlp_pair" in message
    assert message.count("\n") == 1
