"""A server that fails is remembered by all runs of a sweep, in whatever processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import training_of_wandb
from wandb_agreement import assert_agrees
from wandb_server import WandbServer

from gan_lab.sweep import record
from gan_lab.tracking import outages
from gan_lab.tracking.outages import ASKED_AGAIN, Outages

HERE, THERE = "http://here", "http://there"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "launch"
    monkeypatch.setenv(record.VARIABLE, str(folder))
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1e9]
    monkeypatch.setattr("gan_lab.tracking.outages.time.time", lambda: now[0])
    return now


def test_the_folder_is_the_one_of_the_launch() -> None:
    assert outages.VARIABLE == record.VARIABLE


def test_another_run_does_not_ask_for_a_while(sweep: Path, clock: list[float]) -> None:
    Outages(120).add(HERE, "cannot be reached", 5)
    other = Outages(120)
    assert other.problem(HERE) == "cannot be reached"
    assert other.problem(THERE) == ""
    clock[0] += ASKED_AGAIN - 1
    assert other.problem(HERE) == "cannot be reached"
    clock[0] += 1
    assert other.problem(HERE) == ""
    assert (other.left(HERE), other.left(THERE)) == (115, 120)


def test_all_runs_together_have_one_budget(sweep: Path, clock: list[float]) -> None:
    for waited in (30, 60, 45):
        assert Outages(120).left(HERE) > 0
        Outages(120).add(HERE, "answers 500", waited)
        clock[0] += ASKED_AGAIN
    assert Outages(120).left(HERE) == 0
    assert Outages(120).problem(HERE) == "answers 500"  # and so for the rest of the sweep


def test_torn_lines_are_passed_over(sweep: Path) -> None:
    Outages(120).add(HERE, "is gone", 7)
    with (sweep / "outages.jsonl").open("a") as file:
        file.write('{"server": "http://here", "problem": "is go{"server"}\n[1]\n{"server": "http://here"}\n')
    assert Outages(120).left(HERE) == 113


def test_outside_a_sweep_nothing_is_shared() -> None:
    assert not Outages(120).are_shared
    assert (Outages(120).problem(HERE), Outages(120).left(HERE)) == ("", 120)


def test_processes_of_a_sweep_share_it(server: WandbServer, sweep: Path, tmp_path: Path) -> None:
    def train(name: str, launch: Path) -> str:
        command = [sys.executable, training_of_wandb.__file__, str(tmp_path / "runs" / name), "online", "20"]
        environment = {**os.environ, record.VARIABLE: str(launch)}
        done = subprocess.run([*command, "0", ""], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    server.close()
    assert "this run is kept offline" in train("first", sweep)
    server.open()
    assert "this run is kept offline" in train("second", sweep)
    assert server.asked == []
    train("third", tmp_path / "another sweep")
    assert len(server.runs) == 1
    assert_agrees(next(iter(server.runs.values())), tmp_path / "runs" / "third")
