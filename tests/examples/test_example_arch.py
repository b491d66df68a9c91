"""The architecture of examples/arch, joined from outside the package through the command line alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/arch"


@pytest.mark.parametrize("choices", [["norm=bssn"], ["norm=strict_sn", "loss=wgan_gp"]], ids=" ".join)
def test_it_trains_and_generates(
    choices: list[str],
    tiny: list[str],
    tmp_path: Path,
    train_py: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    done = train_py(
        "--config-dir", str(EXAMPLE / "configs"), "arch=mlp", "train.iterations=5", *choices, *tiny
    )
    assert done.returncode == 0, done.stderr
    norm = choices[0].split("=")[1]
    (run,) = (tmp_path / "outputs/digits/mlp" / norm).glob("seed0-*")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {f"sigma/linear{number}" for number in (1, 2, 3)} <= last.keys()

    grid = tmp_path / "grid.png"
    command = [sys.executable, "scripts/generate.py", str(run), "--num", "4", "--out", str(grid)]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--allow mlp_pair" in refused.stderr
    subprocess.run([*command, "--allow", "mlp_pair"], cwd=ROOT, check=True)
    assert Image.open(grid).size == (2 * 32 + 6, 2 * 32 + 6)  # two by two, two pixels of frame around each


def test_without_its_folder_it_says_so(tiny: list[str], train_py: Callable[..., Any]) -> None:
    done = train_py("--config-dir", str(EXAMPLE / "configs"), "arch=mlp", *tiny)
    assert done.returncode == 2
    assert "mlp_pair" in done.stderr
    assert "Traceback" not in done.stderr
