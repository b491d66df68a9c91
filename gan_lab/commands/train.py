"""Train one GAN, or sweep many: Hydra composes the config, `gan_lab.run` does the rest."""

import sys
from typing import NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf

from gan_lab import shell, sweep, terminal
from gan_lab.distributed import env
from gan_lab.presets import CONFIGS


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def train(cfg: DictConfig) -> float:
    """Hydra's task: train what `cfg` describes; returns the FID for a sweeper to minimize."""
    from gan_lab.run import run  # heavy, and not needed for --help

    terminal.prepare()  # also in the processes that a launcher starts
    return sweep.job(run, cfg)


def main() -> NoReturn:
    """Train as `sys.argv` says, which Hydra reads too, and leave with the exit status of run or sweep."""
    OmegaConf.register_new_resolver("shell", shell.command, replace=True)  # for the text of --help
    env.prepare(sys.argv[1:])
    env.leave(sweep.exit_status(train))
