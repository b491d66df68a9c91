"""Whole sweeps, killed, stopped and in parallel: they end with the bits of their runs one after another."""

import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stopping
from six_runs import CHECKPOINT_EVERY, LOG_EVERY, SweepOfSix

from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RunDirectory
from gan_lab.sweep.record import Launch

INTERRUPTED = 4


def states(sweep: SweepOfSix) -> list[str]:
    return [RunDirectory(path).read_status().get("state", "not begun") for path in sweep.directories]


def listed(output: str) -> dict[str, str]:
    """The states in a closing table by the first column."""
    table = output[output.index("\nrun ") :].split("\n", 2)[2]
    return dict(re.findall(r"^(\S+(?: \S+)*?)  +(\w+(?: \w+)?)  ", table, re.M))


def test_a_sweep_that_is_killed_resumes_by_the_same_line(sweep_of_six: SweepOfSix, tmp_path: Path) -> None:
    sweep = sweep_of_six
    killed = subprocess.run(
        sweep.command(*stopping.options("Kill")),
        env=stopping.environment("/sn/seed0", 2 * CHECKPOINT_EVERY + LOG_EVERY),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert states(sweep) == ["finished", "finished", "running", "not begun", "not begun", "not begun"]

    command = sweep.command("tracker=local")
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    sweep.assert_as_one_after_another()
    starts = sweep.starts()
    # Nothing is done twice but what came after the last checkpoint.
    assert starts == [[0], [0], [0, 2 * CHECKPOINT_EVERY], [0], [0], [0]]
    assert again.stdout.count("already finished") == 2
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
    (launch,) = map(Launch, (tmp_path / "outputs" / "sweeps").glob("*/.launches/*"))
    assert sorted(launch.records()) == list(range(6))
    for directory in sweep.directories:  # each its own run of W&B, with its own lines
        (path,) = directory.glob("wandb/offline-run-*/*.wandb")
        kinds = [record.WhichOneof("record_type") for record in wandb_records(path)]
        assert (kinds.count("run"), kinds.count("exit")) == (1, 1)
        grids = list(directory.glob("samples/*.png"))
        assert kinds.count("history") == len(sweep.recorded(directory)) + len(grids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


def test_parallel_runs_write_checkpoints_when_the_sweep_is_stopped(
    sweep_of_six: SweepOfSix, tmp_path: Path
) -> None:
    sweep = sweep_of_six
    parallel = ("hydra/launcher=local_parallel", f"hydra.sweep.dir={tmp_path}/same folder")
    command = sweep.command(*parallel, *stopping.options("Hold"), "fresh=true")
    with subprocess.Popen(
        command,
        env=stopping.environment("/seed", 6 * LOG_EVERY),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for place in (0, 1):
            sweep.wait_until_held(place, process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    assert process.returncode == INTERRUPTED, said
    assert "Traceback" not in said
    assert states(sweep) == ["interrupted"] * 2 + ["not begun"] * 4
    for directory in map(RunDirectory, sweep.directories[:2]):
        saved = checkpoint.load_newest(directory.checkpoints)
        assert saved
        assert saved["iteration"] == directory.read_status()["iteration"] == 6 * LOG_EVERY
    table = listed(said)
    assert sorted(table.values()) == ["interrupted"] * 2 + ["not begun"] * 4
    assert table["norm=bssn seed=1"] == "not begun"
    (again,) = re.findall("next: (.*?)  # resumes", said)
    assert shlex.split(again)[2:] == [word for word in command[2:] if word != "fresh=true"]

    # The folder is used again, and nothing of its first use counts: neither the stop nor a record.
    resumed = subprocess.run(
        sweep.command(*parallel, "tracker=local"), cwd=tmp_path, capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert set(listed(resumed.stdout).values()) == {"finished"}
    sweep.assert_as_one_after_another()
    assert sweep.starts() == [[0, 6 * LOG_EVERY]] * 2 + [[0]] * 4
