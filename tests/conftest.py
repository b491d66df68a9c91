"""What the tests share: a quiet environment, a folder of data that is prepared once, and the command line."""

import os

# Read by torch when it is imported: a second process computes the same bits only with as many threads.
os.environ["OMP_NUM_THREADS"] = "1"

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from wandb_server import WandbServer

# The same examples in every run, so that a result can be repeated; they may take as long as they like.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = "1800"  # seconds, where something must have a time-out


@pytest.fixture(scope="session", autouse=True)
def _nobody_s_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees, uses or changes the W&B account and settings of whoever runs it."""
    folder = tmp_path_factory.mktemp("wandb-home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("NETRC", str(folder / "netrc"))
        for kind in ("CONFIG", "CACHE", "DATA"):
            patch.setenv(f"WANDB_{kind}_DIR", str(folder / kind.lower()))
        # Its service, which is on this machine, may take as long as it likes.
        for timeout in ("X_SERVICE_WAIT", "INIT_TIMEOUT"):
            patch.setenv(f"WANDB_{timeout}", PATIENCE)
        patch.setattr("gan_lab.tracking.wandb.CONNECTION_TIMEOUT", int(PATIENCE))
        patch.setattr("gan_lab.tracking.wandb.UPLOAD_TIMEOUT", int(PATIENCE))
        patch.setattr("gan_lab.tracking.wandb.LOOK_TIMEOUT", int(PATIENCE))
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `paths.data`: the digits and their classifier are made once for all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["WandbServer"]:
    """A stand-in for W&B's server that the environment names, and a process that knows nothing of another."""
    from wandb_server import serving_this_process

    with serving_this_process(monkeypatch, tmp_path / "netrc") as at:
        yield at


@pytest.fixture
def tiny(tmp_path: Path, data: Path) -> list[str]:
    """Overrides for a run of a second: the smallest networks, no metrics, no tracker, outputs of its own."""
    return [
        "experiment=tiny",
        "metrics=none",
        "tracker=local",
        "device=cpu",
        f"paths.data={data}",
        f"paths.outputs={tmp_path}/outputs",
    ]


@pytest.fixture
def train_py(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python train.py ...` to its end in an empty folder, without a terminal."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    return call


@pytest.fixture
def sigterm_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[str]]:
    """Overrides by which `train.py` is sent a SIGTERM when the run of a seed records an iteration."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)

    def overrides(seed: int, iteration: int) -> list[str]:
        target = ["tracker.mode=offline", "+tracker._target_=signalling.Signalling"]
        return [*target, f"+tracker.seed={seed}", f"+tracker.iteration={iteration}"]

    return overrides


@pytest.fixture(scope="session")
def recorded() -> Callable[[Path], list[dict[str, float]]]:
    """Reads the rows of a run's metrics.jsonl without what the machine decides (speed and memory)."""

    def read(directory: Path) -> list[dict[str, float]]:
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        machine = ("speed/", "memory/")
        return [{k: v for k, v in json.loads(line).items() if not k.startswith(machine)} for line in lines]

    return read


@pytest.fixture(scope="session")
def wandb_records() -> Callable[[Path], list[Any]]:
    """Reads a W&B file: LevelDB's log format after a header of seven bytes, a protocol buffer a record."""
    import struct

    from wandb.proto.wandb_internal_pb2 import Record

    def read(path: Path) -> list[Any]:
        content, at, record, records = path.read_bytes(), 7, b"", []
        assert content[:4] == b":W&B"
        while at + 7 <= len(content):
            if (left := 2**15 - at % 2**15) < 7:  # no chunk's header fits into the rest of a block
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", content, at)
            record += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # a whole record, or the last chunk of one
                records.append(Record.FromString(record))
                record = b""
        return records

    return read
