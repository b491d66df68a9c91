"""Signals at awkward moments: the run is resumable, says so, and ends with the bits of an undisturbed one."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import safetensors.torch
import torch
from kill_and_resume import differences, rows_of

from gan_lab import signals
from gan_lab.config import compose, load
from gan_lab.data import digits
from gan_lab.losses import Hinge
from gan_lab.metrics.evaluation import Evaluator
from gan_lab.metrics.extractors import Extractor
from gan_lab.run import run
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RunDirectory
from gan_lab.tracking import JsonLines
from gan_lab.training.stopping import SIGNALS

ROOT = Path(__file__).resolve().parent.parent.parent
INTERRUPTED = 4


# Three sample grids and four checkpoints; and the same with two evaluations of three batches each.
UNJUDGED = [
    *("experiment=tiny", "metrics=none", "tracker=local", "device=cpu", "arch.width=0.03125"),
    *("train.batch_size=4", "train.iterations=12", "train.log_every=2", "train.sample_every=5"),
    "train.checkpoint_every=3",
]
JUDGED = [*UNJUDGED, "metrics=digits", "metrics.digits.num_generated=120", "metrics.digits.batch_size=40"]
JUDGED += ["train.evaluate_every=8"]


@pytest.fixture
def unjudged(data: Path, tmp_path: Path) -> list[str]:
    return [*UNJUDGED, f"paths.data={data}", f"paths.outputs={tmp_path}/outputs"]


@pytest.fixture
def small(data: Path, tmp_path: Path) -> list[str]:
    return [*JUDGED, f"paths.data={data}", f"paths.outputs={tmp_path}/outputs"]


@pytest.fixture(autouse=True)
def _without_nohup() -> Iterator[None]:
    """The tests themselves may run under it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def directory(overrides: list[str]) -> RunDirectory:
    return RunDirectory(load(compose(overrides)).run_directory)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    outputs = tmp_path_factory.mktemp("undisturbed")
    overrides = [*JUDGED, f"paths.data={data}", f"paths.outputs={outputs}"]
    assert run(compose(overrides)).exit_status == 0
    return directory(overrides)


def at_call(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, *signals: int) -> None:
    """Send this process signals when `owner.name` is called for the `number`-th time."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def wrapper(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            for signal_number in signals:
                os.kill(os.getpid(), signal_number)
        return original(*arguments, **named)

    patch.setattr(owner, name, wrapper)


# moment: (owner, function, its call, the iteration after which the run stops)
MOMENTS: dict[str, tuple[Any, str, int, int]] = {
    "a discriminator update": (Hinge, "discriminator", 4, 4),
    "between two logged iterations": (Hinge, "generator", 7, 7),
    "the beginning of an evaluation": (Evaluator, "evaluate", 1, 8),
    "the second batch of an evaluation": (Extractor, "__call__", 2, 8),
    "the last evaluation": (Evaluator, "evaluate", 2, 12),
    "a sample grid": (PIL.Image.Image, "save", 3, 10),
    "the writing of a checkpoint": (torch, "save", 2, 7),
    "a line of the record": (JsonLines, "log", 3, 5),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_at_any_moment_leaves_a_run_that_goes_on_to_the_same_bits(
    moment: str, small: list[str], undisturbed: RunDirectory
) -> None:
    owner, name, call, iteration = MOMENTS[moment]
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, owner, name, call, signal.SIGTERM)
        assert run(compose(small)).exit_status == INTERRUPTED
    assert [signal.getsignal(number) for number in SIGNALS] == before
    status = directory(small).read_status()
    assert (status["state"], status["iteration"]) == ("interrupted", iteration)
    assert "SIGTERM" in status["reason"]
    saved = checkpoint.load_newest(directory(small).checkpoints)
    assert saved is not None
    assert saved["iteration"] == iteration
    assert run(compose(small)).exit_status == 0
    assert not list(differences(directory(small), undisturbed))


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_named_in_the_reason(
    number: signal.Signals, unjudged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_call(monkeypatch, Hinge, "generator", 2, number)
    assert run(compose(unjudged)).exit_status == INTERRUPTED
    status = directory(unjudged).read_status()
    assert status["reason"] == f"stopped by {number.name} after iteration 2"


def test_under_nohup_a_closing_terminal_stops_nothing(
    unjudged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    at_call(monkeypatch, Hinge, "generator", 2, signal.SIGHUP)
    assert run(compose(unjudged)).exit_status == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_further_signals_do_not_hurry_a_run_that_is_stopping(
    unjudged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    at_call(monkeypatch, Hinge, "generator", 2, *others)
    assert run(compose(unjudged)).exit_status == INTERRUPTED
    status = directory(unjudged).read_status()
    assert (status["iteration"], status["reason"]) == (2, "stopped by SIGTERM after iteration 2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["the last evaluation", "the writing of a checkpoint"])
def test_a_signal_that_arrives_several_times_is_one_wish(
    number: signal.Signals, moment: str, small: list[str], undisturbed: RunDirectory
) -> None:
    owner, name, call, iteration = MOMENTS[moment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "AGAIN_S", float("inf"))
        at_call(patch, owner, name, call, number, signal.SIGINT, signal.SIGTERM)
        assert run(compose(small)).exit_status == INTERRUPTED
    status = directory(small).read_status()
    assert (status["state"], status["iteration"]) == ("interrupted", iteration)
    assert run(compose(small)).exit_status == 0
    assert not list(differences(directory(small), undisturbed))


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Hinge, "discriminator", 4),
        (Extractor, "__call__", 2),
        (PIL.Image.Image, "save", 2),
        (torch, "save", 2),
        (hashlib, "file_digest", 2),
        (JsonLines, "length", 3),
        (safetensors.torch, "serialize", 1),
    ],
)
def test_a_second_ctrl_c_leaves_at_once_with_whole_files(
    owner: Any,
    name: str,
    call: int,
    small: list[str],
    undisturbed: RunDirectory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "AGAIN_S", 0.0)
        at_call(patch, owner, name, call, signal.SIGINT, signal.SIGINT)
        assert run(compose(small)).exit_status == INTERRUPTED
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert "the same command resumes from the last checkpoint" in said.err
    root = directory(small)
    assert root.read_status()["state"] == "interrupted"
    assert not list(root.root.rglob(".*.tmp"))
    rows_of(root.metrics)  # each line is whole JSON
    assert run(compose(small)).exit_status == 0
    assert not list(root.root.rglob("*.damaged"))
    assert not list(differences(root, undisturbed))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_training_ends_the_program_as_interrupted_with_nothing_written(
    number: signal.Signals,
    small: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_call(monkeypatch, digits, "prepare", 1, number)
    assert run(compose(small)).exit_status == INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err
    assert not directory(small).root.exists()


def test_sigterm_in_a_sweep_s_third_job(
    unjudged: list[str], tmp_path: Path, sigterm_at: Callable[[int, int], list[str]]
) -> None:
    overrides = [*unjudged, "train.log_every=4", "probes.every=0", "train.sample_every=0"]
    jobs = [directory([*overrides, f"seed={seed}"]) for seed in (0, 1, 2)]
    command = [sys.executable, str(ROOT / "train.py"), "-m", "seed=0,1,2", *overrides]
    stopped = subprocess.run([*command, *sigterm_at(2, 4)], cwd=tmp_path, capture_output=True, text=True)
    assert stopped.returncode == INTERRUPTED, stopped.stderr
    assert [job.read_status()["state"] for job in jobs] == ["finished", "finished", "interrupted"]
    resumed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("already finished") == 2
    alone = [*overrides, "seed=2", f"paths.outputs={tmp_path}/alone"]
    assert run(compose(alone)).exit_status == 0
    assert not list(differences(jobs[2], directory(alone)))
