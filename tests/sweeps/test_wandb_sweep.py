"""`wandb sweep` and `wandb agent` on the example's file, against a stand-in for W&B's server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from wandb_server import WandbServer

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples/sweeps/wandb.yaml"


def test_an_agent_trains_what_the_sweep_says(server: WandbServer, data: Path, tmp_path: Path) -> None:
    """Fewer and smaller runs than the example's, by its command and with its metric."""
    config = yaml.safe_load(EXAMPLE.read_text())
    norms = config["parameters"]["norm"]["values"][:2]
    small = {"train.iterations": 5, "train.log_every": 5, "arch.width": 0.03125, "train.batch_size": 8}
    small |= {"paths.data": str(data), "paths.outputs": str(tmp_path / "outputs"), "device": "cpu"}
    config["parameters"] |= {key: {"value": value} for key, value in small.items()}
    config["parameters"] |= {"norm": {"values": norms}, "seed": {"value": 0}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "WANDB_DIR": str(tmp_path)}

    def wandb(*arguments: str) -> str:
        command = [sys.executable, "-m", "wandb", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = wandb("sweep", str(tmp_path / "sweep.yaml"))
    (sweep,) = re.findall(r"wandb agent (\S+)", said)
    assert sweep.startswith("someone/gan-lab/")
    said = wandb("agent", sweep)
    assert len(server.runs) == len(norms), said
    for run, norm in zip(server.runs.values(), norms, strict=True):
        assert run.exit_code == 0
        assert run.facts["sweep"] == sweep.rpartition("/")[2]
        assert f"-{norm}-" in run.facts["groupName"]
        assert run.rows[-1]["iteration"] == 5
        assert config["metric"]["name"] in run.summary
