"""Three kills on every run of the tests; more by hand, see the tool's own text."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parent / "kill_and_sync.py"


def test_three_kills_and_wandb_holds_what_the_record_holds(tmp_path: Path, data: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "data").symlink_to(data)  # the digits' classifier is made once for all tests
    command = [sys.executable, str(TOOL), "--kills", "3", "--seed", "1", "--folder", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills" in done.stdout
