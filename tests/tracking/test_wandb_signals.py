"""A second Ctrl-C leaves at once, whatever wandb would wait for at the exit of the process."""

import subprocess
import sys

import pytest
from wandb_server import WandbServer

STOPPED = """
import os, signal, sys
from wandb.sdk.lib.service.service_connection import ServiceConnection
from gan_lab import signals
from gan_lab.config import compose
from gan_lab.run import run
from gan_lab.training.gan import Gan

teardown, update = ServiceConnection.teardown, Gan.update

def tearing_down(self, *arguments):
    print("wandb is waited for", flush=True)
    return teardown(self, *arguments)

def updating(self, *arguments):
    values = update(self, *arguments)
    for _ in range({count} if self.iteration == 4 else 0):
        os.kill(os.getpid(), signal.SIGINT)
    return values

signals.AGAIN_S = {again}
ServiceConnection.teardown, Gan.update = tearing_down, updating
sys.exit(run(compose(sys.argv[1:])).exit_status)
"""


def stopped(overrides: list[str], count: int, again: str) -> str:
    """What a run printed that was sent as many; those within `again` seconds repeat the first one."""
    script = STOPPED.replace("{count}", str(count)).replace("{again}", again)
    command = [sys.executable, "-c", script, *overrides, "tracker=wandb", "tracker.mode=online"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    return done.stdout


def test_a_second_ctrl_c_waits_for_nothing(server: WandbServer, tiny: list[str]) -> None:
    assert "wandb is waited for" not in stopped(tiny, count=2, again="0.0")
    (run,) = server.runs.values()
    assert run.exit_code is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_first_one_ends_the_run_in_wandb_too(server: WandbServer, tiny: list[str], count: int) -> None:
    assert "wandb is waited for" in stopped(tiny, count, again="float('inf')")
    (run,) = server.runs.values()
    assert run.exit_code == 1
    assert run.preempting
