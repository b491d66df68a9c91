import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image
from wandb.sdk.lib import wbauth

from gan_lab.config import compose, load
from gan_lab.run import run
from gan_lab.tracking import wandb as tracking
from gan_lab.tracking.base import RunInfo
from gan_lab.tracking.wandb import WandbTracker, effective_mode

KEY = "0123456789abcdef" * 3  # of the right form, and nobody's
NOWHERE = "http://127.0.0.1:9"  # a port where nobody listens

Reader = Callable[[Path], list[Any]]


@pytest.fixture(autouse=True)
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B reads its settings and credentials once in a process: each test begins and ends without any."""

    def forget() -> None:
        wandb.teardown()
        tracking._unusable.clear()
        wbauth.unauthenticate_session(update_settings=False)

    forget()
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    yield
    forget()


# --- whether to be online


def log_in(tmp_path: Path, machine: str) -> None:
    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")


def test_auto_is_offline_without_credentials() -> None:
    assert effective_mode("auto") == "offline"


def test_auto_is_online_with_a_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert effective_mode("auto") == "online"


def test_auto_is_online_after_wandb_login(tmp_path: Path) -> None:
    log_in(tmp_path, "api.wandb.ai")
    assert effective_mode("auto") == "online"


def test_auto_is_offline_with_another_server_s_login(tmp_path: Path) -> None:
    log_in(tmp_path, "wandb.example.org")
    assert effective_mode("auto") == "offline"


def test_auto_is_online_with_the_login_of_one_s_own_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.org:8080")
    log_in(tmp_path, "wandb.example.org:8080")
    assert effective_mode("auto") == "online"


def test_auto_is_offline_with_a_key_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert effective_mode("auto") == "offline"


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_auto_follows_the_environment(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", mode)
    assert effective_mode("auto") == mode


def test_auto_follows_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command `wandb offline` leaves a settings file."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text("[default]\nmode = offline\n")
    assert effective_mode("auto") == "offline"


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
@pytest.mark.parametrize("environment", ["online", "offline"])
def test_what_is_asked_for_wins(monkeypatch: pytest.MonkeyPatch, mode: str, environment: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", environment)
    assert effective_mode(mode) == mode


def test_online_without_credentials_is_offline_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert effective_mode("online") == "offline"
    assert "wandb login" in caplog.text


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_nobody_is_asked_on_a_terminal(mode: str) -> None:
    """On a pseudo-terminal, where W&B by itself would offer an account or ask for a key."""
    script = f"from gan_lab.tracking.wandb import effective_mode; print('mode:', effective_mode({mode!r}))"
    ours, theirs = pty.openpty()
    os.write(ours, b"\x04" * 8)  # whoever asks reads the end of the input
    command = [sys.executable, "-c", script]
    subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, check=True)
    shown = os.read(ours, 2**16).decode()
    os.close(ours)
    os.close(theirs)
    assert "mode: offline" in shown
    assert not re.search("account|enter your choice|API key", shown, re.IGNORECASE)


# --- what is recorded


def info(folder: Path, iteration: int = 0) -> RunInfo:
    config = {"norm": {"name": "sn", "scale": 1.5}, "tags": ["a", "b"]}
    return RunInfo(folder, "digits-12345678-0", "digits/dcgan/sn/seed0", config, iteration)


def offline_files(folder: Path) -> list[Path]:
    wandb.teardown()  # its service writes behind our back
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def rows(records: list[Any]) -> dict[int, dict[str, Any]]:
    """The logged values by iteration."""
    found: dict[int, dict[str, Any]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {name(item): json.loads(item.value_json) for item in record.history.item}
            found.setdefault(row["iteration"], {}).update(row)
    return found


def summarized(records: list[Any]) -> dict[str, Any]:
    updates = [record.summary for record in records if record.WhichOneof("record_type") == "summary"]
    return {name(item): json.loads(item.value_json) for update in updates for item in update.update}


def the_run(records: list[Any]) -> Any:
    """The record of the run itself: its id, name, config, group and tags."""
    (found,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    return found


def test_everything_is_in_the_offline_file(tmp_path: Path, wandb_records: Reader) -> None:
    Image.new("RGB", (7, 5), "red").save(tmp_path / "grid.png")
    tracker = WandbTracker(info(tmp_path), "offline", "lab", None, "digits-dcgan-sn", ["digits", "sn"])
    for iteration, fid in ((5, 30.0), (10, 20.0), (15, 25.0)):
        tracker.log(iteration, {"loss/d": iteration / 4, "metric/fid_digits": fid, "metric/fid": fid + 1})
        tracker.log_samples(iteration, tmp_path / "grid.png")
    tracker.finish("finished")

    (path,) = offline_files(tmp_path)
    records = wandb_records(path)
    found = the_run(records)
    config = {item.key: json.loads(item.value_json) for item in found.config.update}
    assert config["norm"] == {"name": "sn", "scale": 1.5}
    assert (found.project, found.run_group, found.job_type) == ("lab", "digits-dcgan-sn", "train")
    assert list(found.tags) == ["digits", "sn"]
    assert found.display_name == "digits/dcgan/sn/seed0"

    history = rows(records)
    assert {step: row["loss/d"] for step, row in history.items()} == {5: 1.25, 10: 2.5, 15: 3.75}
    assert {step: row["metric/fid_digits"] for step, row in history.items()} == {5: 30, 10: 20, 15: 25}
    for row in history.values():
        with Image.open(path.parent / "files" / row["samples.path"]) as image:
            assert image.size == (7, 5)
            assert image.getpixel((0, 0)) == (255, 0, 0)
    values = summarized(records)
    assert (values["metric/fid_digits"], values["best/fid_digits"]) == (25, 20)
    assert (values["metric/fid"], values["best/fid"]) == (26, 21)
    assert values["loss/d"] == 3.75
    assert values["state"] == "finished"


@pytest.mark.parametrize(("state", "status"), [("finished", 0), ("diverged", 1), ("interrupted", 1)])
def test_wandb_knows_how_the_run_ended(
    tmp_path: Path, wandb_records: Reader, state: str, status: int
) -> None:
    tracker = WandbTracker(info(tmp_path), "offline")
    tracker.finish(state)
    (path,) = offline_files(tmp_path)
    records = wandb_records(path)
    (left,) = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
    assert left.exit_code == status
    assert summarized(records)["state"] == state


def test_a_resumed_run_goes_on_under_its_id_and_a_new_one_does_not(
    tmp_path: Path, wandb_records: Reader
) -> None:
    ids = []
    for folder, iteration in (("one", 0), ("one", 5), ("two", 0)):
        tracker = WandbTracker(info(tmp_path / folder, iteration), "offline")
        tracker.log(iteration + 5, {"loss/d": 1.0})
        tracker.finish("interrupted")
        records = wandb_records(offline_files(tmp_path / folder)[-1])
        assert list(rows(records)) == [iteration + 5]
        ids.append(the_run(records).run_id)
    begun, resumed, other = ids
    assert begun == resumed != other
    assert begun.startswith("digits-12345678-0-")


def test_a_run_that_was_not_finished_does_not_swallow_the_next(tmp_path: Path, wandb_records: Reader) -> None:
    """As in a sweep whose first run failed."""
    WandbTracker(info(tmp_path / "failed"), "offline").log(5, {"loss/d": 1.0})
    second = WandbTracker(info(tmp_path / "next"), "offline")
    second.log(5, {"loss/d": 2.0})
    second.finish("finished")
    for folder, loss in (("failed", 1.0), ("next", 2.0)):
        (path,) = offline_files(tmp_path / folder)
        assert {step: row["loss/d"] for step, row in rows(wandb_records(path)).items()} == {5: loss}


# --- failures


def test_an_unreachable_server_means_offline(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, wandb_records: Reader, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    cfg = compose([*tiny, "tracker=wandb", "tracker.mode=online", "train.iterations=5"])
    assert run(cfg).exit_status == 0

    directory = load(cfg).run_directory
    assert (directory / "train.log").read_text().count("WARNING") == 1
    assert capfd.readouterr().err.count("this run is kept offline") == 1
    local = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    (path,) = offline_files(directory)
    remote = rows(wandb_records(path))
    assert {iteration: row["loss/d"] for iteration, row in remote.items()} == {
        row["iteration"]: row["loss/d"] for row in local
    }


def test_an_agent_of_a_wandb_sweep_decides_the_run_s_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc12345")
    monkeypatch.setenv("WANDB_RUN_ID", "given123")
    WandbTracker(info(tmp_path), mode="offline").finish("finished")
    (path,) = offline_files(tmp_path)
    assert path.name == "run-given123.wandb"
    monkeypatch.delenv("WANDB_SWEEP_ID")  # it goes on without the agent
    monkeypatch.delenv("WANDB_RUN_ID")
    WandbTracker(info(tmp_path, iteration=1), mode="offline").finish("finished")
    assert {path.name for path in offline_files(tmp_path)} == {"run-given123.wandb"}
