"""What the processes of a sweep tell each other, in files: a record of each run, and when to stop."""

import dataclasses
import fcntl
import functools
import itertools
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from gan_lab.files import write_json

VARIABLE = "GAN_LAB_LAUNCH"  # by which a run finds the folder of its launch


@dataclass(frozen=True)
class Record:
    """What one run of a sweep leaves for the closing table."""

    overrides: list[str]
    directory: str | None = None  # None where the config is too wrong to have one
    inode: int | None = None  # of the directory before the run began
    pid: int = 0
    exit_status: int | None = None  # None until it ends
    reason: str = ""

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))


@dataclass(frozen=True)
class Launch:
    """The folder of one launch: nothing in it is of an earlier or another use of the sweep's folder."""

    folder: Path

    @classmethod
    def begin(cls, sweep: Path) -> "Launch":
        """A new one in the sweep's folder; the first process that writes makes it."""
        name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(4)}"
        return cls(sweep.absolute() / ".launches" / name)

    @classmethod
    def of_this_run(cls) -> "Launch":
        return cls(Path(os.environ[VARIABLE]))

    def record(self, number: int) -> Path:
        """The record of the run with this number, wherever Hydra's own files of it lie."""
        return self.folder / f"run{number}.json"

    def records(self) -> dict[int, Record]:
        """What the runs that have begun say, by their numbers."""
        paths = self.folder.glob("run*.json")
        found = {int(path.stem.removeprefix("run")): Record.read(path) for path in paths}
        return {number: record for number, record in sorted(found.items()) if record}

    @property
    def is_stopped(self) -> bool:
        return (self.folder / "stopped").exists()

    def stop(self) -> None:
        """Keep further runs from beginning."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "stopped").touch()

    @functools.cache  # noqa: B019  a process works for one launch
    def claim(self) -> int:
        """The least number that no other living process has claimed here, for as long as this one lives."""
        for number in itertools.count():
            descriptor = os.open(self.folder / f"worker{number}", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return number
        raise AssertionError
