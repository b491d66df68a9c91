"""Twenty kills on every run of the tests; more by hand, see the tool's own text."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parent / "kill_and_resume.py"


def test_twenty_kills_leave_the_bits_of_undisturbed_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--kills", "20", "--seed", "5", "--folder", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 kills" in done.stdout
