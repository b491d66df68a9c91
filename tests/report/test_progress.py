"""How a sweep stands: who lives, who is done, who needs a person."""

import json
import os
import time
from pathlib import Path

import pytest
from synthetic_runs import make_run

from gan_lab.report.progress import Progress, progress, table
from gan_lab.report.runs import find
from gan_lab.runs.lock import STALE, RunLock


def age(folder: Path, seconds: float) -> None:
    """Make a run's last signs of life that old."""
    for path in folder.iterdir():
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


def look(root: Path) -> dict[str, Progress]:
    return {
        entry.name.split("/")[2] if "/" in entry.name else entry.name: entry
        for entry in progress(*find(root))
    }


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for norm, state in {
        "none": "diverged",
        "sn": "finished",
        "ssn": "failed",
        "bsn": "interrupted",
        "bssn": "running",
        "strict_sn": "running",
    }.items():
        folder = make_run(tmp_path, norm, rows=40, grids=0, state=state, train__iterations=4_000)
        age(folder, 2 * STALE)
        if norm == "bssn":
            (folder / "lock").write_text('{"host": "far", "pid": 7}')
    return tmp_path


def test_who_needs_a_person(sweep: Path) -> None:
    entries = look(sweep)
    assert {name: entry.state for name, entry in entries.items()} == {
        "none": "diverged",
        "sn": "finished",
        "ssn": "failed",
        "bsn": "interrupted",
        "bssn": "running",
        "strict_sn": "dead",
    }
    assert {name for name, entry in entries.items() if entry.needs_person} == {"ssn", "bsn", "strict_sn"}
    assert all("again" in entry.word for entry in entries.values() if entry.needs_person)


def test_those_who_need_a_person_come_first(sweep: Path) -> None:
    needs = [entry.needs_person for entry in progress(*find(sweep))]
    assert needs == sorted(needs, reverse=True)


def test_how_far_they_are(sweep: Path) -> None:
    folder = next(sweep.glob("*/*/bssn/*"))
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "iteration": 0}))  # as at its start
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 9999, "cut off')
    entry = look(sweep)["bssn"]
    assert (entry.iteration, entry.iterations) == (2_000, 4_000)
    assert entry.hours_left == pytest.approx(2_000 * last["speed/step_ms"] / 3.6e6)
    assert entry.metrics == f"FID {last['metric/fid']:.4g}  IS {last['metric/is_mean']:.4g}"
    assert entry.silence is not None
    assert entry.silence < STALE


def test_a_lock_that_is_held_is_a_sign_of_life(sweep: Path) -> None:
    folder = next(sweep.glob("*/*/strict_sn/*"))
    with RunLock(folder / "lock"):
        assert look(sweep)["strict_sn"].state == "running"
    age(folder, 2 * STALE)
    assert look(sweep)["strict_sn"].state == "dead"


def test_looking_leaves_no_trace(sweep: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    look(sweep)
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before


def test_damage_needs_a_person(sweep: Path) -> None:
    next(sweep.glob("*/*/sn/*/config.yaml")).write_text("{{{")
    next(sweep.glob("*/*/none/*/status.json")).write_text("")
    entries = look(sweep)
    assert (entries["sn"].state, entries["none"].state) == ("damaged", "unknown")
    assert entries["sn"].needs_person
    assert entries["none"].needs_person


def test_the_table(sweep: Path) -> None:
    text = table(progress(*find(sweep)))
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["run", "state", "iteration"]
    assert len(lines) == 9
    assert lines[-1] == "1 failed, 1 dead, 1 interrupted, 1 running, 1 diverged, 1 finished"
    assert "2,000 (50%)" in text
    short = table(progress(*find(sweep)), height=7).splitlines()
    assert len(short) == 7
    assert short[-3] == "… and 3 more"


def test_what_slurm_will_start_again_needs_nobody(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = sweep / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 7_3\necho 8\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    for norm, job in (("bsn", "7_3"), ("strict_sn", "8"), ("ssn", "8"), ("sn", "8"), ("none", "9")):
        path = next(sweep.glob(f"*/*/{norm}/*/status.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), "slurm_job": job}))
        age(path.parent, 2 * STALE)
    entries = look(sweep)
    assert {name for name, entry in entries.items() if entry.state == "queued"} == {"bsn", "strict_sn"}
    assert {name for name, entry in entries.items() if entry.needs_person} == {"ssn"}
    squeue.write_text("#!/bin/sh\nexit 1\n")  # as where its controller does not answer
    assert look(sweep)["bsn"].state == "interrupted"
