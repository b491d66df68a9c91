"""Which of the processes that a launcher started this one is; nothing heavy is imported to know it."""

import os
import signal
import sys
from typing import NoReturn

from gan_lab.errors import UserError

WRONG_CONFIG = 2  # the exit status of train.py where nothing was begun
GRACE_S = 10.0


def world_size() -> int:
    """How many processes train one run together; torchrun says it, or whoever sets WORLD_SIZE.

    Raises UserError where WORLD_SIZE is no number.
    """
    return max(1, _number("WORLD_SIZE") or 1)


def rank() -> int:
    """This process's number among them; where torchrun did not set it, Slurm's is taken."""
    return _number("RANK", "SLURM_PROCID") if world_size() > 1 else 0


def local_rank() -> int:
    """This process's number among those of its host."""
    return _number("LOCAL_RANK", "SLURM_LOCALID") if world_size() > 1 else 0


def _number(*variables: str) -> int:
    """The first of these environment variables that is set; 0 where none is."""
    name = next((name for name in variables if os.environ.get(name)), None)
    if name is None:
        return 0
    try:
        return int(os.environ[name])
    except ValueError:
        raise UserError(
            f"{name}={os.environ[name]} is not a number: start several ranks with torchrun, or unset {name}"
        ) from None


def is_rank_zero() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def prepare(arguments: list[str]) -> None:
    """Let rank zero speak for all, and refuse a sweep: each rank's sweeper would choose for itself."""
    try:
        rank(), local_rank()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_CONFIG)
    if world_size() > 1:
        # When one rank ends, torchrun ends the others: they shall say why, and leave with their own status.
        # So a SIGTERM waits until a run takes it, and after that there is nothing left to stop.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not is_rank_zero():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if world_size() > 1 and {"-m", "--multirun"} & set(arguments):
        print(
            "error: a sweep (-m) cannot run in several ranks: start torchrun once for each of its runs, or "
            "let a launcher start the ranks (docs/multi_device.md)",
            file=sys.stderr,
        )
        leave(WRONG_CONFIG)


def leave(status: int) -> NoReturn:
    """Exit; with a refusal rank zero goes first, since torchrun ends all ranks when one has ended."""
    if status == WRONG_CONFIG and not is_rank_zero():
        signal.sigtimedwait({signal.SIGTERM}, GRACE_S)
    sys.exit(status)
