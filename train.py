"""Train one GAN, or sweep many: `python train.py norm=bssn dataset=digits`; `python train.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

INTERRUPTED = 4
statuses: list[int] = []  # the exit status of each run, in the order in which they started


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float:
    from gan_lab.run import run  # heavy, and not needed for --help

    statuses.append(1)  # until it is known better
    outcome = run(cfg)
    statuses[-1] = outcome.exit_status
    if outcome.exit_status == INTERRUPTED:
        sys.exit(INTERRUPTED)  # the rest of a sweep shall stop too
    return outcome.fid


if __name__ == "__main__":
    try:
        main()
    except SystemExit as stop:
        # Hydra exits with 1 where it refuses the command line: the config is wrong.
        sys.exit(2 if stop.code == 1 and not statuses else stop.code)
    sys.exit(max(statuses, default=0))
