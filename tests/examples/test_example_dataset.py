"""The dataset of examples/dataset, joined from outside the package through the command line alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/dataset"


def test_it_is_prepared_and_trains_as_its_readme_says(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
    joined = ["--config-dir", str(EXAMPLE / "configs")]
    paths = [f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs"]

    def run(script: str, *arguments: str) -> str:
        command = [sys.executable, str(ROOT / script), *joined, *arguments, *paths]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "2,000 images of 32×32" in run("scripts/prepare_data.py", "shapes")
    images = np.load(tmp_path / "data/shapes-32-2000-0.npy")
    assert images.shape == (2000, 3, 32, 32)
    # Each is of two colours, the ground and the shape.
    assert all(len(np.unique(image.reshape(3, -1), axis=1).T) == 2 for image in images[:50])

    tiny = ["experiment=tiny", "metrics=none", "tracker=local", "device=cpu"]
    run("train.py", "dataset=shapes", "norm=sn", *tiny)
    (status,) = (tmp_path / "outputs/shapes/dcgan/sn").rglob("status.json")
    assert json.loads(status.read_text())["state"] == "finished"
