"""Trains very small networks for many iterations; prints what they hold in memory after some and all."""

import gc
import itertools
import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_lab.config import compose
from gan_lab.losses import Hinge
from gan_lab.run import run

EARLY = 1_000


class Generator(nn.Sequential):
    def __init__(self, image_size: int, latent_dim: int, width: float) -> None:
        super().__init__(
            nn.Linear(latent_dim, 3), nn.Unflatten(1, (3, 1, 1)), nn.Upsample(scale_factor=image_size)
        )


class Discriminator(nn.Sequential):
    def __init__(self, image_size: int, width: float, norm: str) -> None:
        super().__init__(nn.AvgPool2d(image_size), nn.Flatten(), nn.Linear(3, 1), nn.Flatten(0))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(folder: str, iterations: int) -> int:
    torch.set_num_threads(1)
    measured: dict[int, dict[str, int]] = {}
    loss, calls = Hinge.generator, itertools.count()

    def measuring(self: Hinge, fake: Tensor) -> Tensor:
        done = next(calls)
        if done in (EARLY, iterations - 1):
            gc.collect()
            blocks = sys.getallocatedblocks()  # of Python: a number in a list is one
            measured[done] = {"resident": resident_bytes(), "blocks": blocks}
        return loss(self, fake)

    Hinge.generator = measuring  # type: ignore[method-assign]
    config = compose(
        [
            *("metrics=none", "tracker=local", "device=cpu", "norm=sn", "arch.latent_dim=4"),
            *(
                "arch.generator._target_=long_run.Generator",
                "arch.discriminator._target_=long_run.Discriminator",
            ),
            *(
                f"train.iterations={iterations}",
                "train.batch_size=1",
                "train.log_every=40",
                "probes.every=200",
            ),
            *("train.sample_every=500", "train.checkpoint_every=500"),
            *(f"paths.data={folder}/data", f"paths.outputs={folder}/outputs"),
        ]
    )
    status = run(config).exit_status
    print(json.dumps(list(measured.values())))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
