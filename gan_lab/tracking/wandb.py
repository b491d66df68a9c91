"""Weights & Biases: config, metrics and sample grids of each run, online or in offline files."""

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gan_lab.files import write_text
from gan_lab.tracking.base import RunInfo, reason

log = logging.getLogger(__name__)

CONNECTION_TIMEOUT = 30  # seconds to reach the server before the run is kept offline
UPLOAD_TIMEOUT = 120  # seconds, at a run's end, for what is not uploaded yet; `wandb sync` uploads the rest


def effective_mode(mode: str) -> str:
    """What W&B is to do for `tracker.mode`, without ever asking for a key.

    `auto` follows WANDB_MODE and `wandb offline`; where they say nothing, or say online, it is online with
    credentials (an environment variable or what `wandb login` stored) and offline without. `online` without
    credentials is offline, with a warning.
    """
    import wandb

    settings = wandb.Settings(silent=True)
    if mode != "auto":
        settings.mode = mode
    configured = wandb.setup(settings).settings.mode
    if configured != "online":
        return configured
    try:
        problem = "" if wandb.login(prompt=False, verify=False) else "nobody is logged in, see `wandb login`"
    except Exception as error:  # credentials that cannot be any
        problem = reason(error)
    if problem and mode == "online":
        log.warning("W&B cannot be used online (%s): this run is kept offline.", problem)
    return "offline" if problem else "online"


class WandbTracker:
    """One W&B run for one training run, in the run directory, continued when the run is resumed.

    W&B's steps are iterations, so a resumed run appends what is new: it drops steps that it has already.
    """

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

        wandb.finish(exit_code=1)  # a run of this process that failed may still be open
        options: dict[str, Any] = {
            "id": _wandb_id(run),
            "name": run.name,
            "dir": str(run.directory),
            "project": project,
            "entity": entity,
            "group": group,
            "job_type": "train",
            "tags": list(tags),
            "config": dict(run.config),
            "resume": "allow",
            "settings": wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                init_timeout=CONNECTION_TIMEOUT,
                finish_timeout=UPLOAD_TIMEOUT,
                finish_timeout_raises=True,
            ),
        }
        self._image = wandb.Image
        mode = effective_mode(mode)
        try:
            self._run = wandb.init(mode=mode, **options)  # type: ignore[arg-type]
        except Exception as error:
            if mode != "online":
                raise
            log.warning("W&B cannot be reached (%s): this run is kept offline.", reason(error))
            wandb.teardown()  # the start that failed would hold on to the run's id
            self._run = wandb.init(mode="offline", **options)
        self._run.define_metric("metric/fid*", summary="min,last")

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=iteration)

    def log_samples(self, iteration: int, grid: Path) -> None:
        self._run.log({"samples": self._image(str(grid))}, step=iteration)

    def finish(self, state: str) -> None:
        self._run.summary["state"] = state
        self._run.finish(exit_code=0 if state == "finished" else 1)


def _wandb_id(run: RunInfo) -> str:
    """The run's id in W&B, kept in its directory: a run that is started over, or elsewhere, has another.

    One that an agent of a W&B sweep starts has the id that the sweep gave it.
    """
    path = run.directory / "wandb" / "id.txt"
    if os.environ.get("WANDB_SWEEP_ID") and (given := os.environ.get("WANDB_RUN_ID")):
        write_text(path, f"{given}\n")
    elif not path.exists():
        write_text(path, f"{run.id}-{secrets.token_hex(3)}\n")
    return path.read_text(encoding="utf-8").strip()
