"""Means over seeds, whether two of them differ by more than the noise, by how much, and what goes with what.

Runs of one seed share their batches and latents, so two settings are compared in pairs by seed where they
have seeds in common: what a seed does to both cancels. Distances, which are positive and spread the more the
larger they are, are compared by their ratios: the tests are of their logarithms.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05  # a difference with a larger p is called inside the noise
POWER = 0.8  # with which a test is to find a difference that is there
MOST_SEEDS = 1000  # that a study is told to take
RESAMPLES = 2000  # of a bootstrap
LEVEL = 0.95  # of its intervals
PAIRED, WELCH, OF_LOGARITHMS = "paired t", "Welch", " of logarithms"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values and its standard error, `stdev/√n`: None of fewer than two."""

    n: int
    mean: float
    error: float | None


@dataclass(frozen=True)
class Comparison:
    """One setting's values of a metric against a better one's.

    `p` is two-sided, None where there is nothing to test; `corrected` is Holm's over all settings that are
    compared with the better one. `differences` are those in pairs by seed, empty where the test is Welch's;
    of the values, or of their logarithms if `test` says so. `family`: with how many it is corrected.
    """

    test: str
    p: float | None
    differences: tuple[float, ...] = ()
    corrected: float | None = None
    family: int = 1

    @property
    def of_logarithms(self) -> bool:
        """Whether the differences are logarithms of ratios."""
        return self.test.endswith(OF_LOGARITHMS)

    @functools.cached_property
    def difference(self) -> tuple[float, Interval | None] | None:
        """The mean of the differences, and its bootstrap interval."""
        return (fmean(self.differences), bootstrap_mean(self.differences)) if self.differences else None

    @functools.cached_property
    def effect(self) -> tuple[float, Interval | None] | None:
        """Cohen's d of the pairs, mean over standard deviation of the differences, and its interval."""
        d = standardized(self.differences)
        return None if d is None else (d, bootstrap_standardized(self.differences))

    @functools.cached_property
    def seeds_needed(self) -> int | None:
        """How many pairs a test would need for the difference that was seen; None: more than a thousand.

        Whatever the others of its family turn out to be: at the level that Holm asks of the smallest p.
        """
        d = standardized(self.differences)
        return None if d is None else pairs_needed(d, alpha=ALPHA / self.family)


def mean(values: Sequence[float]) -> Mean | None:
    """None without values."""
    if not values:
        return None
    n = len(values)
    return Mean(n, fmean(values), stdev(values) / math.sqrt(n) if n > 1 else None)


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The two-sided p of Welch's t-test: how often means so far apart come by chance if the truths are equal.

    None of fewer than two values on a side, or without spread on either; 1 where all values are equal.
    """
    if min(len(first), len(second)) < 2:
        return None
    if len(set(first)) == 1 and len(set(second)) == 1:
        return 1.0 if first[0] == second[0] else None
    a, b = stdev(first) ** 2 / len(first), stdev(second) ** 2 / len(second)
    if a + b == 0:  # a spread too small for its square
        return None
    freedom = 1 / ((a / (a + b)) ** 2 / (len(first) - 1) + (b / (a + b)) ** 2 / (len(second) - 1))
    return _two_sided((fmean(first) - fmean(second)) / math.sqrt(a + b), freedom)


def paired(differences: Sequence[float]) -> float | None:
    """The two-sided p of the paired t-test; None of fewer than two pairs, or where all differ by the same.

    1 where no pair differs: means are never closer, whatever the spread.
    """
    if len(differences) > 1 and not any(differences):
        return 1.0
    d = standardized(differences)
    return None if d is None else _two_sided(d * math.sqrt(len(differences)), len(differences) - 1)


def _two_sided(t: float, freedom: float) -> float | None:
    from scipy.special import stdtr  # slow to start

    p = 2 * float(stdtr(freedom, -abs(t)))
    return p if math.isfinite(p) else None


def against(
    worse: Mapping[str, Sequence[float]], better: Mapping[str, Sequence[float]], logarithms: bool = False
) -> Comparison:
    """Compare two settings' values, which are given by seed, or their natural logarithms.

    In pairs where each has one value a seed and two seeds in common; else by Welch's test.
    """
    if logarithms:
        found = against(_logarithms(worse), _logarithms(better))
        return dataclasses.replace(found, test=found.test + OF_LOGARITHMS)
    shared = [seed for seed in worse if seed in better]
    if len(shared) > 1 and all(len(values) == 1 for side in (worse, better) for values in side.values()):
        differences = tuple(worse[seed][0] - better[seed][0] for seed in shared)
        return Comparison(PAIRED, paired(differences), differences)
    first, second = ([x for values in side.values() for x in values] for side in (worse, better))
    return Comparison(WELCH, welch(first, second))


def all_against(
    worse: Sequence[Mapping[str, Sequence[float]]],
    better: Mapping[str, Sequence[float]],
    logarithms: bool = False,
) -> list[Comparison]:
    """Compare settings with a better one, corrected for as many as can be tested."""
    found = [against(one, better, logarithms) for one in worse]
    ps = [one.p for one in found]
    family = max(1, sum(p is not None for p in ps))
    return [
        dataclasses.replace(one, corrected=p, family=family) for one, p in zip(found, holm(ps), strict=True)
    ]


def _logarithms(by_seed: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {seed: [math.log(value) for value in values] for seed, values in by_seed.items()}


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) corrected p-values of a family; None stays None and is no member of it."""
    order = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, place) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        corrected[place] = least
    return corrected


def standardized(differences: Sequence[float]) -> float | None:
    """Cohen's d of pairs: mean over standard deviation; None of fewer than two, or without spread."""
    if len(differences) < 2 or not (spread := stdev(differences)):
        return None
    return fmean(differences) / spread


def bootstrap_mean(values: Sequence[float]) -> Interval | None:
    """The percentile bootstrap's 95% interval of a mean (Efron 1979); None of fewer than two values."""
    return None if len(values) < 2 else _percentiles(_resampled(values).mean(axis=1))


def bootstrap_standardized(values: Sequence[float]) -> Interval | None:
    """Of `standardized`, over the resamples that have a spread; few values give a very wide interval."""
    if len(values) < 2:
        return None
    samples = _resampled(values)
    spread = samples.std(axis=1, ddof=1)
    kept = spread > 1e-12 * max(map(abs, values))
    return _percentiles(samples[kept].mean(axis=1) / spread[kept]) if kept.any() else None


def pairs_needed(d: float, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """The fewest pairs with which a two-sided paired t-test finds an effect d with this power.

    By the noncentral t distribution (Cohen 1988, section 2). None where it takes more than a thousand.
    """
    from scipy.stats import nct, t

    def reaches(n: int) -> bool:
        critical = t.ppf(1 - alpha / 2, n - 1)
        shift = abs(d) * math.sqrt(n)
        wrong_way = nct.cdf(-critical, n - 1, shift)  # NaN where it is too small
        return bool(nct.sf(critical, n - 1, shift) + np.nan_to_num(wrong_way) >= power)

    low, high = 1, 2  # `low` is too few; far above what is needed SciPy's distribution gives NaN
    while not reaches(high):
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high if high <= MOST_SEEDS else None


def spearman(
    x: Sequence[float], y: Sequence[float], groups: Sequence[object], level: float = LEVEL
) -> tuple[float, Interval | None] | None:
    """Spearman's rank correlation of two quantities over runs, and its bootstrap interval.

    Runs of one of the `groups` are alike and drawn together: the groups are resampled, each with all its
    runs. None of fewer than three runs, or where either quantity is constant; no interval of fewer than three
    groups.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    members: dict[object, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    if len(members) < 3:
        return _rank_correlation(a, b), None
    parts = [np.array(places) for places in members.values()]
    rng = np.random.default_rng(0)
    found = []
    for chosen in rng.integers(len(parts), size=(RESAMPLES, len(parts))):
        places = np.concatenate([parts[index] for index in chosen])
        if np.ptp(a[places]) and np.ptp(b[places]):
            found.append(_rank_correlation(a[places], b[places]))
    return _rank_correlation(a, b), _percentiles(np.array(found), level) if found else None


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def _resampled(values: Sequence[float]) -> NDArray[np.float64]:
    """`[RESAMPLES, n]`, the same each time."""
    given = np.asarray(values, float)
    return given[np.random.default_rng(0).integers(len(given), size=(RESAMPLES, len(given)))]


def _percentiles(found: NDArray[np.float64], level: float = LEVEL) -> Interval:
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
