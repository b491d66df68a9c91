"""A sweep of three norms and two seeds on tiny digits: its command, its runs, and what they must come to."""

import functools
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import stopping

from gan_lab.config import compose, load

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = [[f"norm={norm}", f"seed={seed}"] for norm in ("none", "sn", "bssn") for seed in (0, 1)]
ITERATIONS, LOG_EVERY, CHECKPOINT_EVERY = 40, 2, 10


@dataclass(frozen=True)
class SweepOfSix:
    """The sweep with outputs of its own; `reference` are the directories of the runs one after another."""

    common: list[str]
    reference: list[Path]
    recorded: Callable[[Path], list[dict[str, float]]]

    def command(self, *more: str) -> list[str]:
        line = ["-m", "norm=none,sn,bssn", "seed=0,1", *self.common, *more]
        return [sys.executable, str(ROOT / "train.py"), *line]

    @functools.cached_property
    def directories(self) -> list[Path]:
        return [load(compose([*self.common, *varied])).run_directory for varied in RUNS]

    def wait_until_held(self, place: int, process: subprocess.Popen[str]) -> None:
        """Until `stopping.Hold` holds a run of the sweep that `process` launches."""
        while not (self.directories[place] / stopping.HELD).exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    def starts(self) -> list[list[int]]:
        """The iterations from which each run was started, as its log tells."""
        logs = [(directory / "train.log").read_text() for directory in self.directories]
        return [
            [int(number) for number in re.findall(r"training in .* from iteration (\d+)", log)]
            for log in logs
        ]

    def assert_as_one_after_another(self) -> None:
        """Bit for bit: what is recorded, drawn and left at the end; and each iteration is recorded once."""
        for ours, theirs in zip(self.directories, self.reference, strict=True):
            rows = self.recorded(ours)
            assert [row["iteration"] for row in rows] == list(range(LOG_EVERY, ITERATIONS + 1, LOG_EVERY))
            assert rows == self.recorded(theirs)
            grids = sorted(path.name for path in theirs.glob("samples/*.png"))
            assert grids == sorted(path.name for path in ours.glob("samples/*.png"))
            assert len(grids) > 1
            for name in ("generator.safetensors", *(f"samples/{grid}" for grid in grids)):
                assert (ours / name).read_bytes() == (theirs / name).read_bytes(), (ours, name)
