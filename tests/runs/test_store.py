"""What a run leaves: its record and samples, also in trackers, its weights, and who may write."""

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from gan_lab import norms
from gan_lab.errors import UserError
from gan_lab.runs.directory import CONFIG_FORMAT, RunDirectory
from gan_lab.runs.lock import RunLock
from gan_lab.runs.store import Store, ended_before


class Tracker:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.calls.append((iteration, values))

    def log_samples(self, iteration: int, grid: Path) -> None:
        self.calls.append((iteration, grid.name))

    def finish(self, state: str) -> None:
        self.calls.append((state,))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def store(directory: RunDirectory) -> Store:
    return Store(directory, keep_every=100)


def rows(directory: RunDirectory) -> list[dict[str, float]]:
    return [json.loads(line) for line in directory.metrics.read_text().splitlines()]


def sample(start: int, stop: int, purpose: str) -> Tensor:
    """Image k is filled with the value k."""
    assert purpose == "samples"
    return torch.arange(start, stop, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)


def train_and_crash(directory: RunDirectory, checkpoint_at: int, last: int) -> None:
    store = Store(directory, keep_every=100)
    with store.opened(fresh=False):
        store.begin({"seed": 0}, {}, list)
        for iteration in range(1, last + 1):
            store.log(iteration, {"loss/d": 1.0 * iteration, "metric/fid": 100.0 - iteration})
            if iteration == checkpoint_at:
                store.save_checkpoint({"iteration": iteration, "weight": torch.ones(2)})
        store.finish("failed")


def test_the_record_the_history_and_every_tracker_get_each_row(store: Store, directory: RunDirectory) -> None:
    trackers = [Tracker(), Tracker()]
    with store.opened(fresh=False):
        store.begin({"seed": 3}, {}, lambda: trackers)
        store.log(1, {"metric/fid": 2.0})
        store.log(2, {})  # nothing to say
        store.log_samples(2, sample)
        store.finish("finished")
    assert rows(directory) == [{"iteration": 1, "metric/fid": 2.0}]
    assert store.history.fid == 2.0
    for tracker in trackers:
        assert tracker.calls == [(1, {"metric/fid": 2.0}), (2, "00000002.png"), ("finished",)]
    assert directory.read_config() == {"seed": 3}


def test_samples_are_a_hundred_images_row_by_row(store: Store, directory: RunDirectory) -> None:
    asked: list[tuple[int, int]] = []

    def watched(start: int, stop: int, purpose: str) -> Tensor:
        asked.append((start, stop))
        return sample(start, stop, purpose)

    directory.create()
    store.begin({}, {}, list)
    store.log_samples(7, watched)
    store.finish("finished")
    assert asked == [(start, start + 10) for start in range(0, 100, 10)]
    pixels = np.asarray(Image.open(directory.samples / "00000007.png"))
    centres = pixels[4::6, 4::6, 0]  # of images of 4×4 pixels, two pixels apart
    assert np.array_equal(centres, np.arange(100).reshape(10, 10))


def test_a_run_continues_from_its_checkpoint_and_what_came_after_it_is_forgotten(
    store: Store, directory: RunDirectory
) -> None:
    train_and_crash(directory, checkpoint_at=3, last=5)
    (directory.samples / ".00000005.png.77.tmp").touch()  # as a killed process leaves it
    tracker = Tracker()
    with store.opened(fresh=False):
        state = store.load()
        assert state is not None
        assert state["iteration"] == 3
        assert [row["iteration"] for row in rows(directory)] == [1, 2, 3, 4, 5]  # not before `begin`
        store.begin({"seed": 0}, state, lambda: [tracker])
        assert store.pending_row is None
        assert store.history.fid == 97
        store.log(4, {"metric/fid": 50.0})
        store.finish("finished")
    assert [row["metric/fid"] for row in rows(directory)] == [99, 98, 97, 50]
    assert store.history.metrics["metric/fid"].most == 99
    assert tracker.calls[0] == (4, {"metric/fid": 50.0})  # what it was told before, it has
    assert not list(directory.samples.iterdir())


def test_a_checkpoint_remembers_the_row_that_waits(store: Store, directory: RunDirectory) -> None:
    with store.opened(fresh=False):
        store.begin({}, {}, list)
        store.log(1, {"loss/d": 1.0})
        store.save_checkpoint({"iteration": 2}, pending_row={"loss/d": 2.0})
        store.finish("interrupted")
    resumed = Store(directory, keep_every=100)
    with resumed.opened(fresh=False):
        state = resumed.load()
        assert state is not None
        resumed.begin({}, state, list)
        assert resumed.pending_row == {"loss/d": 2.0}
        resumed.save_checkpoint({"iteration": 3})
        resumed.finish("interrupted")
    again = resumed.load()
    assert again is not None
    assert again["unrecorded"] is None
    assert again["record_length"] == directory.metrics.stat().st_size


def test_checkpoints_of_round_iterations_stay(directory: RunDirectory) -> None:
    store = Store(directory, keep_every=4)
    directory.create()
    store.begin({}, {}, list)
    for iteration in range(1, 11):
        store.save_checkpoint({"iteration": iteration})
    store.finish("finished")
    assert sorted(int(path.stem) for path in directory.checkpoints.glob("*.pt")) == [4, 8, 9, 10]


def test_lines_that_are_missing_are_told(
    store: Store, directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    train_and_crash(directory, checkpoint_at=3, last=3)
    directory.metrics.write_text(directory.metrics.read_text().split("\n")[0] + "\n")
    state = store.load()
    assert state is not None
    store.begin({}, state, list)
    store.finish("finished")
    assert f"lines are missing from {directory.metrics}" in caplog.text
    assert [row["iteration"] for row in rows(directory)] == [1]


def test_only_one_trains_in_a_directory_and_a_fresh_one_keeps_the_old(
    store: Store, directory: RunDirectory
) -> None:
    train_and_crash(directory, checkpoint_at=3, last=3)
    with store.opened(fresh=False):
        for fresh in (False, True):
            with pytest.raises(UserError, match="process"), Store(directory, 100).opened(fresh):
                pass
    with RunLock(directory.lock):  # it was left
        pass
    with store.opened(fresh=True):
        assert store.load() is None
        assert not directory.metrics.exists()
    kept = RunDirectory(directory.root.with_name("run.kept1"))
    assert [row["iteration"] for row in rows(kept)] == [1, 2, 3]


def test_the_log_holds_what_is_said_while_it_is_open(
    store: Store, directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    log, ours = logging.getLogger("gan_lab.anything"), logging.getLogger("gan_lab")
    before = ours.level, ours.propagate, list(ours.handlers)
    with contextlib.suppress(ZeroDivisionError), store.opened(fresh=False):
        log.info("quietly")
        log.warning("loudly")
        raise ZeroDivisionError
    assert (ours.level, ours.propagate, ours.handlers) == before
    log.warning("too late")
    text = directory.log.read_text()
    assert "INFO gan_lab.anything: quietly" in text
    assert "WARNING gan_lab.anything: loudly" in text
    assert "too late" not in text
    assert capsys.readouterr().err.count("WARNING: loudly") == 1


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.BatchNorm2d(3))
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    norms.normalize(shared, norms.SigmaOut, gamma="shared")
    return [plain, plain.to(memory_format=torch.channels_last), shared]


@pytest.mark.parametrize("network", networks(), ids=["plain", "channels-last", "of a shared scale"])
def test_a_generator_is_written_whole(store: Store, directory: RunDirectory, network: nn.Module) -> None:
    directory.create()
    store.write_networks(network.state_dict(), {"other": torch.ones(2)}, 1)
    assert torch.equal(load_file(directory.discriminator)["other"], torch.ones(2))
    written, state = load_file(directory.generator), network.state_dict()
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)


def test_every_status_says_what_is_known_of_the_run(
    store: Store, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    directory.create()
    store.begin({}, {}, list, seed=3, device="2 × cuda")
    store.finish("finished")
    for state, details in (("running", {}), ("diverged", {"layer": "conv0"})):
        store.write_status(state, 7, "why", **details)
        status = directory.read_status()
        expected = {"state": state, "iteration": 7, "reason": "why", "seed": 3, "device": "2 × cuda"}
        assert status.items() >= (expected | details).items()
        assert "slurm_job" not in status
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    store.write_status("running", 8)
    assert directory.read_status()["slurm_job"] == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    store.write_status("running", 8)
    assert directory.read_status()["slurm_job"] == "11_4"  # as squeue names it


def test_a_second_ctrl_c_waits_for_no_tracker(store: Store, directory: RunDirectory) -> None:
    tracker = Tracker()
    directory.create()
    store.begin({}, {}, lambda: [tracker])
    store.log(1, {"loss/d": 1.0})
    store.finish("failed", at_once=True)
    assert tracker.calls == [(1, {"loss/d": 1.0})]
    assert len(rows(directory)) == 1


@pytest.mark.parametrize(
    ("state", "iteration", "expected"),
    [
        ("finished", 10, "finished"),
        ("finished", 11, "finished"),
        ("finished", 9, None),  # a longer one continues
        ("diverged", 3, "diverged"),
        ("interrupted", 10, None),
        ("running", 10, None),
        ("failed", 10, None),
    ],
)
def test_what_needs_no_further_training(
    directory: RunDirectory, state: str, iteration: int, expected: str | None
) -> None:
    assert ended_before(directory, 10) is None
    directory.create()
    directory.write_config({})
    directory.write_status(state, iteration)
    assert ended_before(directory, 10) == expected


def test_a_run_of_another_version_is_refused(directory: RunDirectory) -> None:
    directory.create()
    directory.write_status("finished", 10)
    directory.config.write_text(f"format: {CONFIG_FORMAT - 1}\n")
    with pytest.raises(
        UserError, match=f"format {CONFIG_FORMAT - 1}, this version of gan-lab reads format {CONFIG_FORMAT}"
    ):
        ended_before(directory, 10)
