"""Train one GAN, or sweep many: Hydra composes the config, `gan_lab.run` does the rest."""

import functools
import gc
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf

from gan_lab import shell, sweep, terminal
from gan_lab.distributed import env
from gan_lab.presets import CONFIGS

if TYPE_CHECKING:
    from gan_lab.run import Outcome


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def train(cfg: DictConfig) -> float:
    """Hydra's task: train what `cfg` describes; returns the FID for a sweeper to minimize."""
    terminal.prepare()  # also in the processes that a launcher starts
    return sweep.job(_imported(), cfg)


@functools.cache
def _imported() -> "Callable[[DictConfig], Outcome]":
    """`gan_lab.run.run`, which is heavy and not needed for --help.

    Nothing of what imports make is garbage, and it is much to look through, while it grows and ever after.
    """
    gc.disable()
    from gan_lab.run import run

    gc.freeze()
    gc.enable()
    return run


def main() -> NoReturn:
    """Train as `sys.argv` says, which Hydra reads too, and leave with the exit status of run or sweep."""
    OmegaConf.register_new_resolver("shell", shell.command, replace=True)  # for the text of --help
    env.prepare(sys.argv[1:])
    env.leave(sweep.exit_status(train))
