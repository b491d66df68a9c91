"""Two ranks, started by the real torchrun."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
Torchrun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def torchrun(tmp_path_factory: pytest.TempPathFactory) -> Torchrun:
    """Runs `torchrun --nproc-per-node=2 <script> ...` to its end in an empty folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def call(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, str(HERE / "patient_torchrun.py"), "--standalone", "--nproc-per-node=2"]
        command = [*launcher, str(script), *arguments]
        return subprocess.run(
            command, cwd=elsewhere, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    return call


@pytest.fixture(scope="session")
def train_py() -> Path:
    return HERE / "patient_train.py"


@pytest.fixture(scope="session")
def rank_programs_py() -> Path:
    return HERE / "rank_programs.py"
