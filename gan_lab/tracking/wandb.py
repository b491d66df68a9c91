"""Weights & Biases: config, metrics and sample grids of each run, online or in offline files."""

import logging
import os
from collections.abc import Mapping, Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gan_lab.tracking.base import RunInfo

log = logging.getLogger(__name__)

CONNECTION_TIMEOUT = 30  # seconds


def has_credentials() -> bool:
    """Whether W&B could log in without asking: an API key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def effective_mode(mode: str) -> str:
    """`auto` becomes WANDB_MODE where that is set, else online with credentials and offline without."""
    if mode != "auto":
        return mode
    return os.environ.get("WANDB_MODE") or ("online" if has_credentials() else "offline")


class WandbTracker:
    """One W&B run for one training run, in the run directory, continued when the run is resumed."""

    def __init__(
        self,
        run: RunInfo,
        mode: str = "auto",
        project: str = "gan-lab",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        import wandb

        options: dict[str, Any] = {
            "id": run.id,
            "name": run.name,
            "dir": str(run.directory),
            "project": project,
            "entity": entity,
            "group": group,
            "job_type": "train",
            "tags": list(tags),
            "config": dict(run.config),
            "resume": "allow",
            "reinit": "finish_previous",
        }
        settings = wandb.Settings(init_timeout=CONNECTION_TIMEOUT, silent=True, console="off", disable_git=True)
        self._wandb = wandb
        mode = effective_mode(mode)
        try:
            self._run = wandb.init(mode=mode, settings=settings, **options)  # type: ignore[arg-type]
        except Exception as error:
            if mode != "online":
                raise
            log.warning("W&B cannot be reached (%s): this run is kept offline.", str(error).splitlines()[0])
            self._run = wandb.init(mode="offline", settings=settings, **options)
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        for lowest in ("metric/fid", "metric/fid_digits"):
            self._run.define_metric(lowest, step_metric="iteration", summary="min")

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._run.log({"iteration": iteration, **values}, step=iteration)

    def log_samples(self, iteration: int, grid: Path) -> None:
        self._run.log({"iteration": iteration, "samples": self._wandb.Image(str(grid))}, step=iteration)

    def finish(self, state: str) -> None:
        self._run.summary["state"] = state
        self._run.finish(exit_code=0 if state == "finished" else 1)
