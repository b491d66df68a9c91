"""Train one GAN, or sweep many: `python train.py norm=bssn dataset=digits`; `python train.py --help`."""

import sys
from typing import NoReturn

import hydra
from omegaconf import DictConfig

from gan_lab import sweep, terminal
from gan_lab.distributed import env


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float:
    from gan_lab.run import run  # heavy, and not needed for --help

    terminal.prepare()  # also in the processes that a launcher starts
    return sweep.job(run, cfg)


def train() -> NoReturn:
    env.prepare(sys.argv[1:])
    env.leave(sweep.exit_status(main))


if __name__ == "__main__":
    terminal.run(train, goes_on=True)
