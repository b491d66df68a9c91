"""Fewer points of a long series, so that its spikes survive: least, mean and most of each stretch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Series:
    """A series over iterations, all arrays `[points]`. Where nothing was left out, the three are the same."""

    iteration: NDArray[np.int64]
    least: NDArray[np.float64]
    mean: NDArray[np.float64]
    most: NDArray[np.float64]

    @property
    def whole(self) -> bool:
        return self.least is self.most


def downsample(
    iteration: NDArray[np.int64], value: NDArray[np.floating], stretches: int, last: int
) -> Series:
    """The series over at most `stretches` equal stretches of the iterations 1 to `last`; NaN is no point.

    A series that takes no more numbers as it is stays as it is. `iteration` ascends.
    """
    present = np.isfinite(value)
    if not present.all():
        iteration, value = iteration[present], value[present]
    if len(value) <= 3 * stretches:
        whole = value.astype(np.float64)
        return Series(iteration, whole, whole, whole)
    ends = -(
        -np.arange(stretches) * max(last, int(iteration[-1])) // stretches
    )  # of those before, rounded up
    starts = np.unique(np.searchsorted(iteration, ends, side="right"))
    starts = starts[starts < len(value)]
    counts = np.diff(starts, append=len(value))
    return Series(
        np.rint(np.add.reduceat(iteration, starts) / counts).astype(np.int64),
        np.minimum.reduceat(value, starts).astype(np.float64),
        np.add.reduceat(value, starts, dtype=np.float64) / counts,
        np.maximum.reduceat(value, starts).astype(np.float64),
    )
