"""scripts/benchmark.py: what it prints and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *arguments]
    without_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=without_gpu)


def test_a_row_is_measured_written_compared_and_printed_again(tmp_path: Path) -> None:
    out, old = tmp_path / "benchmark.json", tmp_path / "old.json"
    other = {"name": "other", "value": 1.0, "unit": "s"}
    out.write_text(json.dumps([other]))
    old.write_text(json.dumps([{"name": "time/help", "value": 1e-9, "unit": "s"}]))
    done = benchmark("time/h*", "--out", str(out), "--compare", str(old))
    assert done.returncode == 0, done.stderr
    kept, row = json.loads(out.read_text())
    assert kept == other
    assert row.keys() == {"name", "value", "unit"}
    assert (row["name"], row["unit"]) == ("time/help", "s")
    assert "was 1e-09 (+" in done.stdout

    table = benchmark("--markdown", "--out", str(out)).stdout
    assert table.splitlines()[2] == "| `other` | 1 | s |"
    assert table.splitlines()[3].startswith("| `time/help` | ")


def test_unknown_rows_and_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for arguments, message in (
        (["nonsense"], "no row is called nonsense"),
        (["gpu/kernels/*"], "there is no GPU here for gpu/kernels/*"),
        (["--markdown", "--out", str(tmp_path / "missing")], "is no file of benchmark rows"),
        (["time/help", "--compare", str(tmp_path / "missing")], "is no file of benchmark rows"),
    ):
        done = benchmark(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_gpu_are_listed_and_left_out_without_one(tmp_path: Path) -> None:
    listed = benchmark("--list").stdout.splitlines()
    assert "gpu/time/cnn32/sn/tf32/graphs  (on a GPU only)" in listed
    assert "time/step/cnn32/fp32" in listed
    out = tmp_path / "gpu.json"
    assert benchmark("--gpu", "--out", str(out)).stdout.startswith("there is no GPU here")
    assert not out.exists()
