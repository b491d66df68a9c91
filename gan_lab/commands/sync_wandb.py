"""All runs of a folder to W&B, from their local records only."""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from gan_lab.build import run_info
from gan_lab.commands import name_damaged
from gan_lab.config import of_plain
from gan_lab.errors import UserError
from gan_lab.report.runs import UNKNOWN, find
from gan_lab.runs.directory import RUNNING, RunDirectory
from gan_lab.runs.lock import RunLock
from gan_lab.tracking.wandb import LEDGER, WandbTracker, effective_mode

KEYS = (
    "project",
    "entity",
    "group",
    "tags",
    "notes",
    "job_type",
    "artifact",
)  # that a run's config has


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="All runs of a folder to W&B, from their local records only, as often as one likes. "
        "Exit status: 0 all are there, 1 some are not, 2 the server cannot be used or there is no run."
    )
    parser.add_argument("outputs", type=Path, help="the folder that holds the runs")
    parser.add_argument("--project", help="another than the runs' own (default: gan-lab)")
    parser.add_argument("--entity", help="another than the runs' own")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    runs, damaged = find(given.outputs)
    if effective_mode("online") != "online":
        raise UserError("W&B cannot be used: see `wandb login`, and the variable WANDB_MODE")
    name_damaged(damaged)
    failed = len(damaged)
    # What `fresh=true` set aside has the group of its successor, and would pass for another seed.
    abandoned = [ledger.parent for ledger in given.outputs.rglob(f"*.kept*/{LEDGER}")]
    for folder in [*(run.directory.root for run in runs), *sorted(abandoned)]:
        try:
            url = upload(RunDirectory(folder), given.project, given.entity, folder in abandoned)
            print(f"{folder}: {url}", flush=True)
        except UserError as error:  # an OSError would happen to every run that follows
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    return int(failed > 0)


def upload(
    directory: RunDirectory, project: str | None = None, entity: str | None = None, abandoned: bool = False
) -> str:
    """Make W&B agree with the record of a run that nobody trains; returns its URL, raises UserError."""
    with RunLock(directory.lock), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as files:
        config = of_plain(directory.read_config())
        options: dict[str, Any] = {}
        node = config.plain["tracker"]
        if str(node.get("_target_")).endswith(WandbTracker.__name__):
            options = {key: node[key] for key in KEYS if node.get(key)}
        elif os.environ.get("WANDB_PROJECT"):
            options = {"project": os.environ["WANDB_PROJECT"]}
        options |= {key: value for key, value in (("project", project), ("entity", entity)) if value}
        info = run_info(config, directory.root, sys.maxsize)
        tracker = WandbTracker(info, "online", **options, live=False, files=Path(files))
        if abandoned:
            tracker.tag_abandoned()
        state = directory.read_status().get("state", UNKNOWN)
        tracker.finish("killed" if state == RUNNING else state)
        if not tracker.is_whole:
            raise ConnectionError(
                "W&B takes no further uploads: see to its quota, or `wandb login --relogin`"
            )
        return tracker.url
