"""What a run imports before its first step: each of these takes longer than the step itself."""

import json
import subprocess
import sys

from gan_lab.config import compose
from gan_lab.run import run

HEAVY = {"torchvision", "torch_fidelity", "scipy", "sklearn", "wandb", "plotly", "duckdb", "matplotlib"}
PROGRAM = """
import json, sys
from gan_lab.run import run
from gan_lab.config import compose
from gan_lab.training.gan import Gan

step, imported = Gan.update, []

def update(self, *arguments):
    values = step(self, *arguments)
    imported.append(sorted({name.partition(".")[0] for name in sys.modules}))
    return values

Gan.update = update
assert run(compose(json.loads(sys.argv[1]))).exit_status == 0
print(json.dumps(imported[0]))
"""


def test_a_first_step_waits_for_no_package_that_it_does_not_need(tiny: list[str]) -> None:
    overrides = [*tiny, "metrics=digits", "train.iterations=1"]
    assert run(compose(overrides)).exit_status == 0  # prepares the images, and what judges them
    overrides.append("norm=sn")
    command = [sys.executable, "-c", PROGRAM, json.dumps(overrides)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert "torch" in imported
    assert imported & HEAVY == set()
