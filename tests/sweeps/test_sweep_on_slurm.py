"""A sweep on a real Slurm of one node, two of whose jobs are stopped in the middle and requeued."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import one_node_slurm
import pytest
from six_runs import ITERATIONS, LOG_EVERY, SweepOfSix

from gan_lab.report.progress import QUEUED, progress
from gan_lab.report.runs import find
from gan_lab.runs.directory import INTERRUPTED, RUNNING

pytestmark = pytest.mark.skipif(
    bool(one_node_slurm.missing()),
    reason=f"no {' '.join(one_node_slurm.missing())}: apt-get install slurm-wlm munge",
)
RESOURCES = [f"hydra.launcher.{limit}=null" for limit in ("gpus_per_node", "mem_gb")]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with one_node_slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield os.environ | environment


def _state(directory: Path) -> str:
    (entry,) = progress(*find(directory))
    return entry.state


def _wait_for_rows(sweep: SweepOfSix, process: subprocess.Popen[str], place: int) -> None:
    while sweep.rows(place) < 6:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_jobs_that_are_requeued_go_on(
    sweep_of_six: SweepOfSix,
    slurm: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = sweep_of_six
    command = sweep.command(
        *("hydra/launcher=slurm", *RESOURCES, "hydra.launcher.cpus_per_task=1"),
        *("hydra.launcher.array_parallelism=2", "tracker=local", "train.checkpoint_every=1000"),
    )

    with subprocess.Popen(
        command, cwd=tmp_path, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        _wait_for_rows(sweep, process, 0)  # a scheduler preempts a job with SIGTERM and requeues it
        job = json.loads((sweep.directories[0] / "status.json").read_text())["slurm_job"]
        subprocess.run(["scontrol", "requeue", job], env=slurm, check=True)
        _wait_for_rows(sweep, process, 2)  # before its time limit it sends a job what submitit has asked for
        os.kill(json.loads((sweep.directories[2] / "lock").read_text())["pid"], signal.SIGUSR2)
        monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
        while (state := _state(sweep.directories[2])) in (RUNNING, INTERRUPTED):  # till Slurm has requeued it
            time.sleep(0.01)
        out, error = process.communicate()
    assert state == QUEUED  # which is nothing for a person to see to
    assert process.returncode == 0, out + error
    sweep.assert_as_one_after_another()
    starts = sweep.starts()
    assert starts == [[0, starts[0][1]], [0], [0, starts[2][1]], [0], [0], [0]]
    assert all(6 * LOG_EVERY <= starts[place][1] < ITERATIONS for place in (0, 2))
    assert out.count("  finished  ") == 6
