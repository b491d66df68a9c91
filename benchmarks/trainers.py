"""Trainers to be timed: built as a run builds them, on noise of the dataset's size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gan_lab import build
from gan_lab.config import check, compose, resolved
from gan_lab.data import ImageArray, write_array
from gan_lab.device import pick_device, prepare_process
from gan_lab.tracking import Trackers
from gan_lab.training import Trainer
from gan_lab.training.trainer import Sink

IMAGES = 2048


def trainer_for(
    overrides: Sequence[str], folder: Path, sink: Sink | None = None, array: ImageArray | None = None
) -> Trainer:
    """The trainer of a composed config on `array`, else on noise; its files are in `folder`.

    The process is set up as a run sets it up. Raises UserError where the config is refused.
    """
    config = resolved(compose([*overrides, "tracker=local"]))
    check(config)
    size = config["dataset"]["image_size"]
    device = pick_device(config["device"])
    prepare_process(config["train"]["tf32"], config["train"]["compile"])
    return build.build_trainer(config, array or noise(folder / f"{size}.npy", size), device)(
        sink=sink or Trackers([]),
        evaluate=None,
        samples=folder / "samples",
        checkpoints=folder / "checkpoints",
        record_length=lambda: 0,
        stop_requested=lambda: None,
    )


def noise(path: Path, size: int) -> ImageArray:
    """An array of noise at `path`, `[IMAGES, 3, size, size]`."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, size, size), dtype=np.uint8)
    return write_array(path, images, {})


def the_device() -> torch.device:
    """The one that runs take by default."""
    return pick_device("auto")
