"""Networks and their training, to be timed: built as a run builds them, on noise of the dataset's size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gan_lab import build
from gan_lab.config import Config, compose, load
from gan_lab.data import ImageArray, write_array
from gan_lab.device import pick_device, prepare_process
from gan_lab.training.gan import Gan

IMAGES = 2048


def gan_for(overrides: Sequence[str], folder: Path, array: ImageArray | None = None) -> tuple[Gan, Config]:
    """The Gan of a composed config on `array`, else on noise that is kept in `folder`; and the config.

    The process is set up as a run sets it up. Raises UserError where the config is refused.
    """
    config = load(compose([*overrides, "tracker=local"]))
    size = config.dataset.image_size
    device = pick_device(config.device)
    prepare_process(device, config.train.tf32, config.train.compile)
    return build.build_gan(config, array or noise(folder / f"{size}.npy", size), device), config


def iterate(gan: Gan) -> None:
    """One iteration, as the training loop has it."""
    gan.update(gan.draw(gan.iteration + 1))


def noise(path: Path, size: int) -> ImageArray:
    """An array of noise at `path`, `[IMAGES, 3, size, size]`."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, size, size), dtype=np.uint8)
    return write_array(path, images, {})


def the_device() -> torch.device:
    """The one that runs take by default."""
    return pick_device("auto")
