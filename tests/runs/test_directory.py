import errno
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import gan_lab
from gan_lab.errors import UserError
from gan_lab.runs import directory as run_directory
from gan_lab.runs.directory import CONFIG_FORMAT, RUNNING, RunDirectory

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "digits" / "dcgan" / "sn" / "seed0-12345678")
    made.create()
    return made


def test_the_status_says_how_where_and_with_what(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *command, **how: run(*command, **{**how, "timeout": None}))
    run_directory._git_revision.cache_clear()  # git may take as long as it likes
    before = time.time()
    directory.write_status("diverged", 40, "loss/d is nan", seed=7, device="cpu", diverged_at=41, layer="3")
    status = json.loads(directory.status.read_text())
    written = time.mktime(time.strptime(status.pop("time")[:19], "%Y-%m-%dT%H:%M:%S"))
    assert before - 1 <= written <= time.time()
    revision = status.pop("git_revision")
    assert status == {
        "state": "diverged",
        "iteration": 40,
        "reason": "loss/d is nan",
        "diverged_at": 41,
        "layer": "3",
        "seed": 7,
        "device": "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gan_lab": gan_lab.__version__,
    }
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert revision.removesuffix("-dirty") == head.stdout.strip()
    else:
        assert revision is None


def test_no_status_and_a_spoilt_one_are_empty(directory: RunDirectory) -> None:
    assert directory.read_status() == {}
    for content in ("", '{"state": "fini', "[]"):
        directory.status.write_text(content)
        assert directory.read_status() == {}


@pytest.mark.parametrize("reason", ["short", "No space left on device, and so on. " * 20])
def test_on_a_full_disk_the_status_is_still_written(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    directory.write_status(RUNNING, 0, seed=0, device="cpu")
    room = directory.status.stat().st_size

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_directory, "write_json", refuse)
    directory.write_status("failed", 40, reason, seed=0, device="cpu")
    status = directory.read_status()
    assert (status["state"], status["iteration"]) == ("failed", 40)
    assert reason.startswith(status["reason"])
    assert status["reason"]
    assert directory.status.stat().st_size <= room


def test_an_old_run_is_kept_under_a_new_name_each_time(directory: RunDirectory) -> None:
    for content in ("first", "second"):
        directory.create()
        directory.log.write_text(content)
        directory.set_aside()
    kept = sorted(directory.root.parent.iterdir())
    assert [path.name for path in kept] == ["seed0-12345678.kept1", "seed0-12345678.kept2"]
    assert [(path / "train.log").read_text() for path in kept] == ["first", "second"]


def test_creating_it_again_changes_nothing(directory: RunDirectory) -> None:
    directory.log.write_text("kept")
    before = sorted(directory.root.rglob("*"))
    directory.create()
    assert sorted(directory.root.rglob("*")) == before
    assert directory.log.read_text() == "kept"


def test_the_config_comes_back(directory: RunDirectory) -> None:
    norm = {"name": "sn", "scale": 1e-4, "estimator": None}
    config = {"seed": 2**63 - 1, "norm": norm, "tags": ["ß", "yes"]}
    directory.write_config(config)
    assert directory.read_config() == config


@pytest.mark.parametrize("older", range(1, CONFIG_FORMAT))
def test_a_run_of_an_older_format_is_refused(directory: RunDirectory, older: int) -> None:
    directory.write_config({"seed": 0})
    text = directory.config.read_text()
    directory.config.write_text(text.replace(f"format: {CONFIG_FORMAT}", f"format: {older}"))
    with pytest.raises(UserError, match=f"format {older}, .* format {CONFIG_FORMAT}: .*fresh=true"):
        directory.read_config()


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "no run|not a run"), ("{", "no run|not a run"), ("- 1", "format"), ("format: 99", "99")],
)
def test_what_is_no_run_is_refused(directory: RunDirectory, content: str | None, named: str) -> None:
    if content is not None:
        directory.config.write_text(content)
    with pytest.raises(UserError, match=named):
        directory.read_config()


def test_where_nothing_can_be_written_the_option_to_change_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"paths\.outputs"):
        RunDirectory(tmp_path / "file" / "run").create()
