"""scripts/sweep_status.py: its exit status is what a monitor reads."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_runs import make_run

Main = Callable[[list[str]], int]


def test_all_is_well(
    script: Callable[[str], Main], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("sweep_status")([str(finished.parents[3])]) == 0
    out = capsys.readouterr().out
    assert "finished" in out
    assert "3 (100%)" in out
    assert "FID digits" in out


@pytest.mark.parametrize(
    ("state", "status"), [("finished", 0), ("diverged", 0), ("failed", 1), ("interrupted", 1)]
)
def test_the_exit_status(
    script: Callable[[str], Main],
    tmp_path: Path,
    state: str,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(tmp_path, "sn", rows=4, grids=0)
    make_run(tmp_path, "bssn", rows=4, grids=0, state=state, reason="a full disk" if status else "")
    assert script("sweep_status")([str(tmp_path), "--once"]) == status
    assert ("a full disk" in capsys.readouterr().out) == bool(status)


def test_a_copy_needs_nobody_and_is_named(
    script: Callable[[str], Main], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, "sn", rows=4, grids=0)
    (tmp_path / "half").mkdir()
    shutil.copy(folder / "config.yaml", tmp_path / "half")
    assert script("sweep_status")([str(tmp_path)]) == 0
    *_, totals, copies = capsys.readouterr().out.splitlines()
    assert totals == "1 finished"
    assert f"half (of {folder.relative_to(tmp_path)})" in copies


def test_no_run_is_said(script: Callable[[str], Main], tmp_path: Path, refused: Callable[[int], str]) -> None:
    assert "no run" in refused(script("sweep_status")([str(tmp_path)]))


def test_live_it_ends_when_nothing_runs(
    script: Callable[[str], Main],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)  # a run is dead after a minute without a sign of life
    folder = make_run(tmp_path, "sn", rows=4, grids=0, state="running")
    status = folder / "status.json"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        status.write_text(status.read_text().replace("running", "finished"))

    monkeypatch.setattr("time.sleep", nap)
    assert script("sweep_status")([str(tmp_path), "--every", "3"]) == 0
    shown = capsys.readouterr().out.split("\x1b[H")
    assert naps == [3.0]
    assert "1 running" in shown[1]
    assert "1 finished" in shown[2]
