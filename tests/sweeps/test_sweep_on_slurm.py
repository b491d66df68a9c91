"""Sweeps on a real Slurm of one node: jobs stopped and requeued, and a line that does not wait."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import one_node_slurm
import pytest
import stopping
from one_node_slurm import Slurm
from six_runs import LOG_EVERY, SweepOfSix

from gan_lab.report.progress import QUEUED, progress
from gan_lab.report.runs import find
from gan_lab.runs.directory import INTERRUPTED, RUNNING

pytestmark = pytest.mark.skipif(
    bool(one_node_slurm.missing()),
    reason=f"no {' '.join(one_node_slurm.missing())}: apt-get install slurm-wlm munge",
)
OPTIONS = [
    "hydra/launcher=slurm",
    *(f"hydra.launcher.{limit}=null" for limit in ("gpus_per_node", "mem_gb")),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.array_parallelism=2"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with one_node_slurm.cluster(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


def _state(directory: Path) -> str:
    (entry,) = progress(*find(directory))
    return entry.state


def _wait_until_stopped(sweep: SweepOfSix, place: int) -> str:
    """The state of a run that was sent a signal, when its job has ended."""
    while (state := _state(sweep.directories[place])) in (RUNNING, INTERRUPTED):
        time.sleep(0.01)
    return state


def test_jobs_that_are_requeued_resume(
    sweep_of_six: SweepOfSix, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of_six
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    command = sweep.command(*OPTIONS, *stopping.options("Hold"), "train.checkpoint_every=1000")
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=stopping.environment("/none/seed0 /sn/seed0", 6 * LOG_EVERY),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        sweep.wait_until_held(0, process)  # a scheduler preempts a job with SIGTERM and requeues it
        jobs = [json.loads((sweep.directories[0] / "status.json").read_text())["slurm_job"]]
        slurm.call("scontrol", "requeue", jobs[0])
        sweep.wait_until_held(2, process)  # before its time limit it sends a job what submitit has asked for
        jobs += [json.loads((sweep.directories[2] / "status.json").read_text())["slurm_job"]]
        os.kill(json.loads((sweep.directories[2] / "lock").read_text())["pid"], signal.SIGUSR2)
        # Till Slurm has requeued them, which is nothing for a person to see to.
        assert [_wait_until_stopped(sweep, place) for place in (0, 2)] == [QUEUED, QUEUED]
        for job in jobs:
            slurm.start_again(job)
        out, error = process.communicate()
    assert process.returncode == 0, out + error
    sweep.assert_as_one_after_another()
    assert sweep.starts() == [[0, 6 * LOG_EVERY], [0], [0, 6 * LOG_EVERY], [0], [0], [0]]
    assert out.count("  finished  ") == 6


def test_ctrl_c_ends_the_line_that_waits_and_its_jobs_train(
    sweep_of_six: SweepOfSix, slurm: Slurm, tmp_path: Path
) -> None:
    sweep = sweep_of_six
    slurm.set_node("drain")
    with subprocess.Popen(
        sweep.command(*OPTIONS, "tracker=local"),
        cwd=tmp_path,
        env=slurm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while len(list(tmp_path.rglob("*_submitted.pkl"))) < 6:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate()
    assert process.returncode == 4, out + error
    assert "6 queued" in out
    assert "next: squeue --me" in out
    assert "next: python" not in out

    slurm.set_node("resume")
    slurm.wait_until(["squeue", "--noheader"], "")
    sweep.assert_as_one_after_another()
