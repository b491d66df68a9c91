"""What a run's record says in the end, gathered row by row while it is written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DISTANCES = ("metric/fid", "metric/fd_")  # FID, and Fréchet distances of other judges than Inception


@dataclass
class Extremes:
    """The last, least and most of one metric's values; `iteration` is that of the last."""

    last: float
    least: float
    most: float
    iteration: int


class History:
    """The metrics of a run, its speed, and whether its discriminator learned to the end."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.metrics: dict[str, Extremes] = {}  # of every `metric/...`, in the order of their first values
        self._speeds: list[float] = []
        self._learned = 0  # the last iteration at which the discriminator's gradient was not 0
        self._zeros = 0  # rows since then that have the gradient
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in one row of metrics.jsonl; numbers that JSON cannot write are None there."""
        for name, value in row.items():
            if name.startswith("metric/") and value is not None:
                iteration = row["iteration"]
                seen = self.metrics.setdefault(name, Extremes(value, value, value, iteration))
                seen.least, seen.most = min(seen.least, value), max(seen.most, value)
                if iteration >= seen.iteration:  # not an earlier state's, which was judged later
                    seen.last, seen.iteration = value, iteration
        if row.get("speed/images_per_s"):
            self._speeds.append(row["speed/images_per_s"])
        if row.get("grad_norm/d", 0) != 0:
            self._learned, self._zeros = row["iteration"], 0
        elif "grad_norm/d" in row:
            self._zeros += 1

    @property
    def fid(self) -> float | None:
        """The last FID, or other Fréchet distance, of the first protocol that measured any."""
        return next((seen.last for name, seen in self.metrics.items() if name.startswith(DISTANCES)), None)

    @property
    def best(self) -> dict[str, float]:
        """The least FID and KID and the highest IS: `best/fid`, `best/is_digits_mean`."""
        found = {}
        for name, seen in self.metrics.items():
            kind = name.removeprefix("metric/")
            if kind.startswith(("fid", "fd_", "kid")) and not kind.endswith("_std"):
                found[f"best/{kind}"] = seen.least
            elif kind.startswith("is_") and not kind.endswith("_std"):
                found[f"best/{kind}"] = seen.most
        return found

    @property
    def images_per_s(self) -> float | None:
        """The median speed."""
        return sorted(self._speeds)[len(self._speeds) // 2] if self._speeds else None

    def stopped_learning(self, least: int = 3) -> int | None:
        """The last iteration at which the discriminator's gradient was not 0; else 0.

        None unless it was 0 in the last `least` rows or more that have it.
        """
        return self._learned if self._zeros >= least else None
