"""Memory does not grow over a run."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parent / "long_run.py"


def test_twenty_thousand_iterations_hold_no_more_memory_than_one_thousand(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(TOOL), str(tmp_path), "20000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    early, late = json.loads(done.stdout.splitlines()[-1])
    assert late["resident"] <= 1.02 * early["resident"]
    assert late["blocks"] <= early["blocks"] + 5000  # not one for each iteration
