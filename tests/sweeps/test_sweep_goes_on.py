"""Whole sweeps, killed, stopped and in parallel: they end with the bits of their runs one after another."""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from six_runs import CHECKPOINT_EVERY, LOG_EVERY, SweepOfSix

from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RunDirectory

INTERRUPTED = 4


def states(sweep: SweepOfSix) -> list[str]:
    return [RunDirectory(path).read_status().get("state", "not begun") for path in sweep.directories]


def wait_for_rows(sweep: SweepOfSix, process: subprocess.Popen[Any], place: int, rows: int) -> None:
    while sweep.rows(place) < rows:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def listed(output: str) -> dict[str, str]:
    """The states in a closing table by the first column."""
    table = output[output.index("\nrun ") :].split("\n", 2)[2]
    return dict(re.findall(r"^(\S+(?: \S+)*?)  +(\w+(?: \w+)?)  ", table, re.M))


def test_a_sweep_that_is_killed_goes_on_by_the_same_line(sweep_of_six: SweepOfSix, tmp_path: Path) -> None:
    sweep = sweep_of_six
    command = sweep.command("tracker=local")
    with subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        wait_for_rows(sweep, process, 2, 10)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert states(sweep) == ["finished", "finished", "running", "not begun", "not begun", "not begun"]

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    sweep.assert_as_one_after_another()
    starts = sweep.starts()
    assert starts == [[0], [0], [0, starts[2][1]], [0], [0], [0]]  # nothing is done twice,
    assert starts[2][1] > 10 * LOG_EVERY - 2 * CHECKPOINT_EVERY  # but what came after the last checkpoint
    assert again.stdout.count("finished before") == 2
    names = [str(path.relative_to(tmp_path / "outputs")) for path in sweep.directories]
    assert listed(again.stdout) == dict.fromkeys(names, "finished")
    page = Path(re.findall(r"comparison of all runs in .*: (.*\.html)", again.stdout)[0])
    assert page == tmp_path / "outputs" / "report.html"
    assert page.read_text().endswith("</html>\n")


def test_parallel_runs_are_those_one_after_another(
    sweep_of_six: SweepOfSix, tmp_path: Path, wandb_records: Callable[[Path], list[Any]]
) -> None:
    sweep = sweep_of_six
    command = sweep.command("hydra/launcher=local_parallel", "tracker.mode=offline")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sweep.assert_as_one_after_another()
    assert len(re.findall("finished", done.stdout[done.stdout.index("\nrun ") :])) == 7
    records = list((tmp_path / "outputs" / "sweeps").glob("*/*/run.json"))
    assert len({re.findall(r'"pid": (\d+)', path.read_text())[0] for path in records}) == 2
    for directory in sweep.directories:  # each its own run of W&B, with its own lines
        (path,) = directory.glob("wandb/offline-run-*/*.wandb")
        kinds = [record.WhichOneof("record_type") for record in wandb_records(path)]
        assert (kinds.count("run"), kinds.count("exit")) == (1, 1)
        assert kinds.count("history") == len({row["iteration"] for row in sweep.recorded(directory)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


def test_parallel_runs_write_checkpoints_when_the_sweep_is_stopped(
    sweep_of_six: SweepOfSix, tmp_path: Path
) -> None:
    sweep = sweep_of_six
    endless = ("train.iterations=1000000", "train.checkpoint_every=1000000")
    command = sweep.command("hydra/launcher=local_parallel", "tracker=local", "fresh=true", *endless)
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        wait_for_rows(sweep, process, 0, 4)
        wait_for_rows(sweep, process, 1, 4)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    assert process.returncode == INTERRUPTED, said
    assert "Traceback" not in said
    assert states(sweep) == ["interrupted"] * 2 + ["not begun"] * 4
    for directory in map(RunDirectory, sweep.directories[:2]):
        saved = checkpoint.load_newest(directory.checkpoints)
        assert saved
        assert saved["iteration"] == directory.read_status()["iteration"] >= 4 * LOG_EVERY
    table = listed(said)
    assert sorted(table.values()) == ["interrupted"] * 2 + ["not begun"] * 4
    assert table["norm=bssn seed=1"] == "not begun"
    (again,) = re.findall("next: (.*?)  # goes on", said)
    assert shlex.split(again)[2:] == [word for word in command[2:] if word != "fresh=true"]
