"""Train one GAN, or sweep many: `python train.py norm=bssn dataset=digits`; `python train.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

statuses: list[int] = []  # the exit status of each run, in the order in which they ended


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float:
    from gan_lab.run import run  # heavy, and not needed for --help

    outcome = run(cfg)
    statuses.append(outcome.exit_status)
    return outcome.fid


if __name__ == "__main__":
    try:
        main()
    except SystemExit as stop:
        # Hydra exits with 1 where it refuses the command line: the config is wrong.
        sys.exit(2 if stop.code == 1 and not statuses else stop.code)
    sys.exit(max(statuses, default=0))
