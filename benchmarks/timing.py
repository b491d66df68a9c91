"""How long something takes, and several things in turn."""

import time
from collections.abc import Callable, Mapping

import torch

BLOCK = 50  # iterations between two synchronizations of a GPU, which would else wait for the host


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, the device's queue included."""
    synchronize(device)
    begin = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begin


def seconds_each(work: Callable[[], object], device: torch.device, count: int = BLOCK) -> float:
    """How long `work` takes when it is done again and again: on a GPU the mean of `count`, else of one."""
    times = count if device.type == "cuda" else 1

    def block() -> None:
        for _ in range(times):
            work()

    return seconds(block, device) / times


def in_turn(
    measures: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """What each measure returns in each round; the first `warm_up` rounds are thrown away.

    Forth and back, so that none always follows the same one.
    """
    values: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(warm_up + rounds):
        for name, measure in list(measures.items())[:: -1 if number % 2 else 1]:
            value = measure()
            if number >= warm_up:
                values[name].append(value)
    return values
