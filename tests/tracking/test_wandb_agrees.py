"""W&B is made to agree with the local record, whatever was killed, offline or refused before."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import training_of_wandb
from PIL import Image
from synthetic_runs import make_run
from training_of_wandb import train
from wandb_agreement import assert_agrees
from wandb_server import StoredRun, WandbServer

from gan_lab import terminal
from gan_lab.build import run_info
from gan_lab.commands.sync_wandb import main
from gan_lab.config import compose, load
from gan_lab.run import run
from gan_lab.runs.directory import RunDirectory
from gan_lab.tracking import jsonl
from gan_lab.tracking import wandb as tracking
from gan_lab.tracking.base import RunInfo
from gan_lab.tracking.ledger import MARK

LAST = 60
SCRIPT = training_of_wandb.__file__


def killed(folder: Path, mode: str, at: int, place: str) -> None:
    command = [sys.executable, SCRIPT, str(folder), mode, str(LAST), str(at), place]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9


def only(server: WandbServer) -> StoredRun:
    (run,) = server.runs.values()
    return run


def test_an_undisturbed_run(server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", "online", LAST)
    run = only(server)
    assert_agrees(run, tmp_path / "run", exact=True)
    assert run.exit_code == 0
    assert run.summary["state"] == "finished"
    assert run.summary["weight_var_lecun/conv"] == 0.125
    assert run.facts["groupName"] == "group"
    assert f"W&B: {server.url}/someone/gan-lab/runs/{run.id}" in capsys.readouterr().out
    assert '"1":"iteration"' in run.facts["config"]  # the step metric of everything


@pytest.mark.parametrize("modes", ["online online", "offline offline", "online offline", "offline online"])
@pytest.mark.parametrize(("at", "place"), [(5, "before"), (25, "between"), (40, "after"), (55, "between")])
def test_a_run_that_was_killed(server: WandbServer, tmp_path: Path, modes: str, at: int, place: str) -> None:
    folder = tmp_path / "run"
    first, second = modes.split()
    killed(folder, first, at, place)
    train(folder, second, LAST)
    if second == "offline":
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1
        train(folder, "online", LAST)  # nothing is left to train
    assert_agrees(only(server), folder)
    assert only(server).exit_code == 0


@pytest.mark.parametrize("second", ["online", "offline"])
@pytest.mark.parametrize("arrived", [0, 1, 5, 13])
def test_what_was_uploaded_in_part(server: WandbServer, tmp_path: Path, arrived: int, second: str) -> None:
    folder = tmp_path / "run"
    train(folder, "online", 45)
    run = only(server)
    run.lose(arrived)
    train(folder, second, LAST)
    train(folder, "online", LAST)  # nothing is left to train
    assert_agrees(run, folder, exact=True)


@pytest.mark.parametrize("again", ["resumed", "synced"])
def test_pictures_that_did_not_arrive_with_their_rows(
    server: WandbServer, tmp_path: Path, again: str
) -> None:
    """A row and the file that it names take different ways, and a kill may come between them."""
    folder = make_run(tmp_path / "outputs", rows=8)
    Image.new("RGB", (7, 5), "white").save(folder / "real.png")
    assert sync([str(folder)]) == 0
    run, ledger = only(server), folder / tracking.LEDGER
    run.files.clear()
    ledger.write_text(ledger.read_text().replace(MARK, ""))  # as a killed process leaves it
    if again == "synced":
        assert sync([str(folder)]) == 0
    else:
        name = "/".join(folder.parts[-4:])
        tracking.WandbTracker(RunInfo(folder, "id", name, {}, 10**6), "online").finish("finished")
    assert_agrees(run, folder, exact=True)
    (real,) = [row["real"] for row in run.rows if "real" in row]
    assert run.files[real["path"]] == (folder / "real.png").read_bytes()
    run.files.clear()
    assert sync([str(folder)]) == 0
    assert not any(name.endswith(".png") for name in run.files)  # what has arrived is not sent again


@pytest.mark.parametrize("second", ["online", "offline"])
def test_what_was_uploaded_and_is_repeated(server: WandbServer, tmp_path: Path, second: str) -> None:
    folder = tmp_path / "run"
    train(folder, "online", 20)
    saved = (folder / "checkpoint.json").read_text()
    train(folder, "online", 45)
    (folder / "checkpoint.json").write_text(saved)  # as if it was killed before it wrote another
    train(folder, second, LAST)
    train(folder, "online", LAST)
    assert_agrees(only(server), folder)


def test_a_run_that_is_killed_again_and_again(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number, at in enumerate((15, 35, 25, 45, 45)):
        mode = ("online", "offline")[number % 2]
        killed(folder, mode, at, training_of_wandb.PLACES[number % 3])
    train(folder, "online", LAST)
    assert_agrees(only(server), folder)


def test_a_record_that_was_changed_gets_a_run_of_its_own(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, "online", LAST)
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"loss/d": ', '"loss/d": 1'))
    train(folder, "online", LAST)
    old, new = server.runs.values()
    assert "abandoned" in old.facts["tags"]
    assert_agrees(new, folder, exact=True)
    assert new.facts["displayName"] == old.facts["displayName"]


# --- scripts/sync_wandb.py


def sync(arguments: list[str]) -> int:
    return terminal.exit_status(lambda: main(arguments))


def test_syncing_any_number_of_times_is_syncing_once(server: WandbServer, tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "outputs", norm, rows=8, evaluations=4) for norm in ("sn", "bssn")]
    assert sync([str(tmp_path / "outputs")]) == 0
    ids = list(server.runs)
    assert sync([str(tmp_path / "outputs")]) == 0
    by_group = {run.facts["groupName"]: run for run in server.runs.values()}
    assert list(server.runs) == ids
    assert len(by_group) == len(ids) == 2
    for folder in folders:
        (run,) = [run for group, run in by_group.items() if f"-{folder.parent.name}-" in group]
        assert_agrees(run, folder, exact=True)
        assert run.exit_code == 0


def test_what_is_recorded_later_arrives_once(server: WandbServer, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "outputs", rows=8, evaluations=2)
    for iteration, fid in ((400, 3.5), (200, 1.5)):
        assert sync([str(tmp_path / "outputs")]) == 0
        jsonl.append(folder / "metrics.jsonl", iteration, {"metric/fid_10k": fid})
    for _ in range(2):
        assert sync([str(tmp_path / "outputs")]) == 0
        assert_agrees(only(server), folder, exact=True)
    assert only(server).summary["metric/fid_10k"] == 3.5
    assert only(server).summary["best/fid_10k"] == 1.5


@pytest.mark.parametrize("state", ["running", "interrupted", "diverged", "failed", "finished"])
def test_states(server: WandbServer, tmp_path: Path, state: str) -> None:
    folder = make_run(tmp_path / "outputs", rows=4, state=state, reason="why")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 12')  # the line in which it was killed
    assert sync([str(tmp_path / "outputs")]) == 0
    run = only(server)
    assert_agrees(run, folder, exact=True)
    assert run.exit_code == (0 if state == "finished" else 1)
    assert run.preempting == (state == "interrupted")
    assert run.summary["state"] == ("killed" if state == "running" else state)
    assert run.summary["reason"] == "why"


def test_whatever_happened_to_wandb_s_files(server: WandbServer, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "outputs", rows=4)
    assert sync([str(tmp_path / "outputs")]) == 0
    broken = folder / "wandb/offline-run-1/run-1.wandb"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b":W&B")
    assert sync([str(tmp_path / "outputs")]) == 0
    assert_agrees(only(server), folder, exact=True)
    assert not broken.exists()  # nobody syncs it by hand any more


def test_what_was_set_aside_is_tagged(server: WandbServer, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "outputs", rows=4)
    assert sync([str(tmp_path / "outputs")]) == 0
    RunDirectory(folder).set_aside()
    make_run(tmp_path / "outputs", rows=4)
    assert sync([str(tmp_path / "outputs")]) == sync([str(tmp_path / "outputs")]) == 0
    old, new = server.runs.values()
    assert old.facts["tags"].count("abandoned") == 1
    assert "abandoned" not in new.facts["tags"]
    assert old.facts["displayName"].endswith(".kept1")
    assert_agrees(new, folder, exact=True)


def test_a_run_that_starts_over_tags_the_one_before(server: WandbServer, tiny: list[str]) -> None:
    options = [*tiny, "tracker=wandb", "tracker.mode=online", "train.iterations=5"]
    assert run(compose(options)).exit_status == 0
    old = only(server)
    rows = [*old.rows]
    assert run(compose([*options, "fresh=true"])).exit_status == 0
    assert run(compose([*options, "train.iterations=10"])).exit_status == 0  # which says nothing more of it
    (old, new) = server.runs.values()
    assert old.facts["tags"].count("abandoned") == 1
    assert old.facts["displayName"].endswith(".kept1")
    assert (old.rows, old.exit_code, old.summary["state"]) == (rows, 0, "finished")
    assert "abandoned" not in new.facts["tags"]
    assert_agrees(new, load(compose(options)).run_directory)


def test_divergence_is_an_alert_with_its_reason(server: WandbServer, tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "outputs", rows=4, state="diverged", reason="loss/d is inf; it began in conv1"
    )
    info = RunInfo(folder, "id", "name", {}, 10**6)
    tracking.WandbTracker(info, "online").finish("diverged")
    assert sync([str(tmp_path / "outputs")]) == 0  # which says it no second time
    (alert,) = server.alerts
    assert "it began in conv1" in alert["text"]


# --- a server that fails


def test_a_refusal_in_the_middle_is_said_and_mended(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_run(tmp_path / "outputs", rows=8)
    server.fault = lambda kind, body: 401 if kind == "stream" else None
    assert sync([str(tmp_path / "outputs")]) == 2
    assert "takes no further uploads" in caplog.text
    server.fault = lambda kind, body: None
    assert sync([str(tmp_path / "outputs")]) == 0
    assert_agrees(only(server), folder, exact=True)


def test_a_refused_key_is_called_so(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault = lambda kind, body: 401
    train(tmp_path / "run", "online", LAST)
    assert "refuses this API key" in caplog.text
    server.fault = lambda kind, body: None
    tracking._unusable.clear()
    train(tmp_path / "run", "online", LAST)
    assert_agrees(only(server), tmp_path / "run", exact=True)


def test_a_server_that_failed_once_is_asked_no_more(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.close()
    for name in ("one", "two"):
        train(tmp_path / name, "online", 10)
    assert caplog.text.count("this run is kept offline") == 2
    assert list(tracking._unusable) == [server.url]


def test_a_wait_for_uploads_is_not_silent(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server answers whoever looks, and takes no uploads until something is said."""
    said = threading.Event()
    speak = tracking._within

    def within(seconds: float, work: Any, after_a_while: Any = lambda: None) -> None:
        speak(seconds, work, lambda: (after_a_while(), said.set()))

    monkeypatch.setattr(tracking, "_within", within)
    monkeypatch.setattr(tracking, "QUIET", 0)
    server.fault = lambda kind, body: None if kind != "stream" or said.is_set() else 500
    train(tmp_path / "run", "online", LAST)
    assert "W&B has not taken all yet: waiting up to" in capsys.readouterr().err
    assert_agrees(only(server), tmp_path / "run", exact=True)


def test_ctrl_c_in_the_last_wait_leaves_a_finished_run_finished(
    server: WandbServer, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = tracking.WandbTracker._wait

    def stopped(self: tracking.WandbTracker, exit_code: int) -> None:
        monkeypatch.setattr(tracking.WandbTracker, "_wait", wait)
        wait(self, exit_code)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr(tracking.WandbTracker, "_wait", stopped)
    cfg = compose([*tiny, "tracker=wandb", "tracker.mode=online", "train.iterations=5"])
    assert run(cfg).exit_status == 0
    directory = load(cfg).run_directory
    assert json.loads((directory / "status.json").read_text())["state"] == "finished"
    assert sync([str(directory)]) == 0
    assert_agrees(only(server), directory)


@pytest.mark.parametrize("key", ["+tracker.foo=1", "tracker=tensorboard +tracker.project=x"])
def test_an_unknown_key_is_refused(tiny: list[str], key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(compose([*tiny, "tracker=wandb", *key.split()])).exit_status == 2
    assert f"{key.split()[-1].partition('=')[0][1:]} is no key of this tracker" in capsys.readouterr().err


def test_the_environment_s_variables_are_defaults(
    server: WandbServer, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROJECT", "RUN_GROUP", "TAGS", "NAME", "JOB_TYPE", "NOTES"):
        monkeypatch.setenv(f"WANDB_{name}", f"my-{name.lower()}")
    cfg = compose([*tiny, "tracker=wandb", "tracker.mode=online", "train.iterations=5", "tracker.notes=said"])
    assert run(cfg).exit_status == 0
    facts = only(server).facts
    assert [facts[name] for name in ("project", "groupName", "tags", "displayName", "jobType", "notes")] == [
        "my-project", "my-run_group", ["my-tags"], "my-name", "my-job_type", "said",
    ]  # fmt: skip
    status = json.loads((load(cfg).run_directory / "status.json").read_text())
    assert status["url"] == f"{server.url}/someone/my-project/runs/{only(server).id}"


def test_groups_hold_what_differs_by_the_seed_only(tmp_path: Path) -> None:
    def group(*overrides: str) -> str:
        config = load(compose(["experiment=tiny", f"paths.outputs={tmp_path}", *overrides]))
        return run_info(config, config.run_directory, 0).group

    assert group("seed=0") == group("seed=1")
    others = (
        "optimizer.d_lr=0.5",
        "loss=wasserstein",
        "arch.width=0.5",
        "norm.scale=3",
        "train.batch_size=7",
        "train.iterations=7",
    )
    assert len({group(), *map(group, others)}) == 1 + len(others)
    assert group().startswith("digits-dcgan-bssn-")
