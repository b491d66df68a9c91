"""Train one GAN, or sweep many: `python train.py norm=bssn dataset=digits`; `python train.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from gan_lab import sweep
from gan_lab.distributed import env


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float:
    from gan_lab.run import run  # heavy, and not needed for --help

    return sweep.job(run, cfg)


if __name__ == "__main__":
    env.prepare(sys.argv[1:])
    env.leave(sweep.exit_status(main))
