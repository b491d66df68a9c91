"""What a run imports before its first step: each of these takes longer than the step itself."""

import json
import subprocess
import sys

import pytest

from gan_lab.config import compose
from gan_lab.run import run

HEAVY = {
    "torchvision", "torch_fidelity", "scipy", "sklearn", "wandb", "plotly", "duckdb", "matplotlib",
    "torch._dynamo", "torch._inductor.config", "sympy", "gan_lab.report",
}  # fmt: skip
PROGRAM = """
import json, sys
from gan_lab.run import run
from gan_lab.config import compose
from gan_lab.training.gan import Gan

step, imported = Gan.update, []

def update(self, *arguments):
    imported.append(sorted(sys.modules))
    return step(self, *arguments)

Gan.update = update
assert run(compose(json.loads(sys.argv[1]))).exit_status == 0
print(json.dumps(imported[1]))  # before the second one, with the first one's record and samples
"""


@pytest.mark.parametrize("others", [[], ["optimizer.tensorflow_epsilon=true", "optimizer.decay=linear"]])
def test_a_first_step_waits_for_nothing_that_it_does_not_need(tiny: list[str], others: list[str]) -> None:
    overrides = [*tiny, "metrics=digits", "train.iterations=2", "train.log_every=1", "train.sample_every=1"]
    assert run(compose(overrides)).exit_status == 0  # prepares the images, and what judges them
    overrides += ["norm=sn", *others]
    command = [sys.executable, "-c", PROGRAM, json.dumps(overrides)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"torch", "gan_lab.training.adam"} <= imported
    assert imported & HEAVY == set()
