"""Which of the processes that a launcher started this one is; nothing heavy is imported to know it."""

import os
import signal
import sys
from dataclasses import dataclass
from typing import NoReturn

from gan_lab.run_directory import WRONG_CONFIG

PATIENCE_S = 10.0


@dataclass(frozen=True)
class Place:
    """A process among those that train one run together."""

    rank: int = 0  # among all
    count: int = 1
    local: int = 0  # among those of this host


def place() -> Place:
    """From the variables that torchrun sets; where only WORLD_SIZE is set, Slurm's say the rest."""
    count = int(os.environ.get("WORLD_SIZE") or 1)
    if count < 2:
        return Place()
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0
    return Place(int(rank), count, int(local))


def prepare(arguments: list[str]) -> None:
    """Let the first rank speak for all, and refuse a sweep: each rank's sweeper would choose for itself."""
    here = place()
    if here.count > 1:
        # When one rank ends, torchrun ends the others: they shall say why, and leave with their own status.
        # So a SIGTERM waits until a run takes it, and after that there is nothing left to stop.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if here.rank:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if here.count > 1 and {"-m", "--multirun"} & set(arguments):
        print(
            "error: a sweep (-m) cannot run in several ranks: start torchrun once for each of its runs, or "
            "let a launcher start the ranks (docs/multi_device.md)",
            file=sys.stderr,
        )
        leave(WRONG_CONFIG)


def leave(status: int) -> NoReturn:
    """Exit; with a refusal the first rank goes first, since torchrun ends all ranks when one has ended."""
    if status == WRONG_CONFIG and place().rank:
        signal.sigtimedwait({signal.SIGTERM}, PATIENCE_S)
    sys.exit(status)
