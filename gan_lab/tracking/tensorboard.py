"""TensorBoard event files under the run directory."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from gan_lab.tracking.base import RunInfo


class TensorBoardTracker:
    """Scalars and sample grids as TensorBoard events."""

    def __init__(self, run: RunInfo, mode: str = "offline") -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Events after this point belong to a lost continuation; TensorBoard hides them.
        self._writer = SummaryWriter(str(run.directory / "tensorboard"), purge_step=run.iteration + 1)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def log_samples(self, iteration: int, grid: Path) -> None:
        self._writer.add_image("samples", np.asarray(Image.open(grid)), iteration, dataformats="HWC")

    def finish(self, state: str) -> None:
        self._writer.close()
