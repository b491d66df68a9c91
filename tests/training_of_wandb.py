"""What a run does to its record and to W&B, without networks: `train` in this process, or one to be killed.

python tests/training_of_wandb.py FOLDER MODE ITERATIONS KILL_AT PLACE
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

from PIL import Image

from gan_lab.tracking.base import RunInfo
from gan_lab.tracking.jsonl import JsonLines
from gan_lab.tracking.wandb import WandbTracker

LOG, SAMPLE, EVALUATE, CHECKPOINT = 5, 10, 15, 20  # iterations
PLACES = ("before", "between", "after")  # of the record's line and the tracker's, and the grid's


def values(iteration: int) -> dict[str, float]:
    """A row: deterministic, but for the speed."""
    row = {"loss/d": iteration / 7, "speed/step_ms": random.random(), "weight_var_lecun/conv": 0.125}
    if iteration % EVALUATE == 0:
        row |= {"metric/fid": abs(50 - iteration) + 1 / 3, "metric/is_mean": 5 - abs(50 - iteration) / 50}
    return row


def train(folder: Path, mode: str, iterations: int, kill_at: int = 0, place: str = "") -> None:
    """Resume where the last checkpoint was, in the order of `gan_lab.runs.store`."""

    def passes(now: str) -> None:
        if iteration == kill_at and now == place:
            os.kill(os.getpid(), signal.SIGKILL)

    (folder / "samples").mkdir(parents=True, exist_ok=True)
    saved = folder / "checkpoint.json"
    start, length = json.loads(saved.read_text()) if saved.exists() else (0, 0)
    record = JsonLines(folder / "metrics.jsonl", length, start)
    tracker = WandbTracker(RunInfo(folder, "digits-12345678-0", "name", {}, start, "group"), mode)
    for iteration in range(start + 1, iterations + 1):
        if iteration % LOG:
            continue
        passes("before")
        row = values(iteration)
        record.log(iteration, row)
        passes("between")
        tracker.log(iteration, row)
        if iteration % SAMPLE == 0:
            grid = folder / f"samples/{iteration:08d}.png"
            Image.new("RGB", (7, 5), (iteration, 0, 0)).save(grid)
            tracker.log_samples(iteration, grid)
        passes("after")
        if iteration % CHECKPOINT == 0 or iteration == iterations:
            saved.write_text(json.dumps([iteration, record.length()]))
    record.finish("finished")
    tracker.finish("finished")


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
