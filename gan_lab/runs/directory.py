"""A run's directory: its files' names, and the status that says how the run stands."""

import contextlib
import functools
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import gan_lab
from gan_lab.distributed.env import WRONG_CONFIG as WRONG_CONFIG
from gan_lab.errors import UserError
from gan_lab.files import remove_litter, write_json, write_text

RUNNING, FINISHED, DIVERGED, INTERRUPTED, FAILED = "running", "finished", "diverged", "interrupted", "failed"
STATES = (RUNNING, FINISHED, DIVERGED, INTERRUPTED, FAILED)
EXIT_STATUS = {FINISHED: 0, FAILED: 1, DIVERGED: 3, INTERRUPTED: 4}  # of train.py

CONFIG_FORMAT = 3  # raised when the meaning of a stored config changes, or what a network is


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run under `root`; see the README for what each holds."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def real_images(self) -> Path:
        return self.root / "real.png"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def generator(self) -> Path:
        return self.root / "generator.safetensors"

    @property
    def discriminator(self) -> Path:
        return self.root / "discriminator.safetensors"

    @property
    def log(self) -> Path:
        return self.root / "train.log"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    def create(self) -> None:
        """Make the directory; raises UserError where it cannot be written."""
        with self._writing():
            for folder in (self.root, self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.root).close()

    def set_aside(self) -> None:
        """Move an old run out of the way, kept next to it under another name."""
        number = 1
        while (kept := self.root.with_name(f"{self.root.name}.kept{number}")).exists():
            number += 1
        with self._writing():
            self.root.rename(kept)

    def remove_litter(self) -> None:
        """Remove what a killed process left half-written; for the owner of the lock."""
        for folder in (self.root, self.samples, self.checkpoints):
            remove_litter(folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the run directory {self.root} cannot be written ({error.strerror}): "
                "set paths.outputs to a folder that can"
            ) from error

    def write_config(self, config: dict[str, Any]) -> None:
        text = yaml.safe_dump({"format": CONFIG_FORMAT, **config}, sort_keys=False, allow_unicode=True)
        with self._writing():
            write_text(self.config, text)

    def read_config(self) -> dict[str, Any]:
        """The resolved config of the run; raises UserError where this is no run directory."""
        try:
            config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(
                f"{self.root} is not a run directory ({self.config.name} cannot be read): give another, or "
                "start it over with fresh=true, which keeps it aside"
            ) from error
        found = config.pop("format", None) if isinstance(config, dict) else None
        if found != CONFIG_FORMAT:
            raise UserError(
                f"{self.config} has format {found}, this version of gan-lab reads format {CONFIG_FORMAT}: "
                "use the version that wrote it, named in status.json, or start over with fresh=true"
            )
        return config

    def read_status(self) -> dict[str, Any]:
        """The run's status, empty where there is none yet, or none that can be read."""
        try:
            status = json.loads(self.status.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(status, dict) or status.get("state") not in STATES:
            return {}
        return status if isinstance(status.get("iteration"), int) else {}

    def write_status(self, state: str, iteration: int, reason: str = "", **details: str | int) -> None:
        """Record how the run stands: one of the five states, after `iteration` iterations, and why.

        `details` are the seed, the device and what else is known. Raises OSError where even that cannot be
        written.
        """
        status = {
            "state": state,
            "iteration": iteration,
            "reason": reason,
            **details,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **versions(),
        }
        try:
            write_json(self.status, status)
        except OSError:
            self._overwrite_status(status)

    def _overwrite_status(self, status: dict[str, Any]) -> None:
        """On a full disk: reuse the space that the old status takes, which needs no new room."""
        room = self.status.stat().st_size
        while len(content := json.dumps(status).encode()) > room and status["reason"]:
            status["reason"] = status["reason"][: -(len(content) - room)]
        with self.status.open("r+b") as file:
            file.write(content.ljust(room))


def versions() -> dict[str, str | None]:
    """Versions of python, torch and the project, and the git revision of its source (None outside git)."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gan_lab": gan_lab.__version__,
        "git_revision": _git_revision(),
    }


@functools.cache
def _git_revision() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
