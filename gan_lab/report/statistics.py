"""Means over seeds, and whether two of them differ by more than the noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

ALPHA = 0.05  # a difference with a larger p is called inside the noise


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values and its standard error, `stdev/√n`: None of fewer than two."""

    n: int
    mean: float
    error: float | None


def mean(values: Sequence[float]) -> Mean | None:
    """None without values."""
    if not values:
        return None
    n = len(values)
    return Mean(n, fmean(values), stdev(values) / math.sqrt(n) if n > 1 else None)


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The two-sided p of Welch's t-test: how often means so far apart come by chance if the truths are equal.

    None where it says nothing: fewer than two values on a side, or no spread on either.
    """
    if min(len(first), len(second)) < 2 or (len(set(first)) == 1 and len(set(second)) == 1):
        return None
    from scipy.special import stdtr  # slow to start

    a, b = stdev(first) ** 2 / len(first), stdev(second) ** 2 / len(second)
    if a + b == 0:  # a spread too small for its square
        return None
    freedom = 1 / ((a / (a + b)) ** 2 / (len(first) - 1) + (b / (a + b)) ** 2 / (len(second) - 1))
    p = 2 * float(stdtr(freedom, -abs(fmean(first) - fmean(second)) / math.sqrt(a + b)))
    return p if math.isfinite(p) else None
