"""Tests, corrections, effects, power and correlations against SciPy and statsmodels."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_lab.report.statistics import (
    PAIRED,
    WELCH,
    Comparison,
    against,
    all_against,
    bootstrap_mean,
    bootstrap_standardized,
    holm,
    mean,
    paired,
    pairs_needed,
    spearman,
    standardized,
    welch,
)

samples = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12)


@settings(deadline=None)
@given(samples)
def test_mean_and_standard_error(values: list[float]) -> None:
    result = mean(values)
    assert result is not None
    assert result.n == len(values)
    assert result.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert result.error == pytest.approx(scipy.stats.sem(values), rel=1e-6, abs=1e-9)


@settings(deadline=None)
@given(st.integers(2, 10), st.integers(2, 10), st.integers(0, 2**32 - 1), st.floats(0, 4), st.floats(0.1, 10))
def test_welch(n: int, m: int, seed: int, shift: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(20, 1, n), rng.normal(20 + shift, spread, m)
    assert welch(a.tolist(), b.tolist()) == pytest.approx(
        scipy.stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-9
    )


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.floats(-4, 4), st.floats(0.1, 10))
def test_paired(n: int, seed: int, shift: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(20, 1, n), rng.normal(20 + shift, spread, n)
    assert paired((a - b).tolist()) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-6)


def test_it_says_nothing_where_it_cannot() -> None:
    assert mean([]) is None
    alone = mean([3.0])
    assert alone is not None
    assert (alone.n, alone.mean, alone.error) == (1, 3.0, None)
    assert welch([1.0], [2.0, 3.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None
    assert welch([], [1.0, 2.0]) is None
    assert paired([1.0]) is paired([2.0, 2.0]) is paired([]) is None
    assert (
        bootstrap_mean([1.0]) is bootstrap_standardized([1.0]) is bootstrap_standardized([2.0, 2.0]) is None
    )
    assert spearman([1, 2], [3, 4], "ab") is spearman([1, 1, 1], [3, 4, 5], "abc") is None


def test_what_does_not_differ_has_the_largest_p() -> None:
    assert paired([0.0, 0.0]) == welch([2.0, 2.0], [2.0, 2.0, 2.0]) == 1
    for spread in (1e-3, 1.0, 1e3):  # as does a mean difference of nothing with any spread
        assert paired([-spread, spread]) == welch([-spread, spread], [spread, -spread]) == 1
    same = {"0": [3.0], "1": [4.0]}
    (found,) = all_against([same], same)
    assert found.corrected == 1


def test_one_side_without_spread_is_no_obstacle() -> None:
    expected = scipy.stats.ttest_1samp([2.0, 2.5, 2.1], 1.0).pvalue  # what it comes to
    assert welch([1.0, 1.0], [2.0, 2.5, 2.1]) == pytest.approx(expected)


def test_seeds_in_common_are_compared_in_pairs() -> None:
    """A seed's own level, far larger than the difference, is on both sides and cancels."""
    rng = np.random.default_rng(0)
    level, noise = rng.normal(0, 100, 8), rng.normal(0, 1, 8)
    better = {str(seed): [x] for seed, x in enumerate(level)}
    worse = {str(seed): [x + 3 + noise[seed]] for seed, x in enumerate(level)} | {"9": [5.0]}
    found = against(worse, better)
    assert found.test == PAIRED
    assert found.p == pytest.approx(scipy.stats.ttest_1samp(3 + noise, 0).pvalue)
    assert found.p is not None
    assert found.p < 0.001
    assert found.difference is not None
    assert found.difference[0] == pytest.approx(np.mean(3 + noise))


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"0": [1.0], "1": [2.0]}, {"2": [3.0], "3": [4.5]}),  # no seed in common
        ({"0": [1.0], "1": [2.0]}, {"1": [3.0], "3": [4.5]}),  # one
        ({"0": [1.0, 1.5], "1": [2.0]}, {"0": [3.0], "1": [4.5]}),  # several runs of a seed
    ],
)
def test_others_are_compared_by_welchs_test(
    worse: dict[str, list[float]], better: dict[str, list[float]]
) -> None:
    found = against(worse, better)
    a, b = (np.concatenate([*side.values()]) for side in (worse, better))
    assert found.test == WELCH
    assert found.p == pytest.approx(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert found.difference is found.effect is found.seeds_needed is None


def test_of_logarithms_the_unit_does_not_matter() -> None:
    """What is twice the other in every seed differs by a ratio of two, whatever the sizes."""
    worse, better = {"0": [4.4], "1": [40.0], "2": [390.0]}, {"0": [2.0], "1": [20.0], "2": [200.0]}
    found = against(worse, better, logarithms=True)
    assert found.of_logarithms
    assert found.test == "paired t of logarithms"
    a, b = (np.log([*side.values()]).ravel() for side in (worse, better))
    assert found.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    assert found.difference is not None
    assert math.exp(found.difference[0]) == pytest.approx((2.2 * 2 * 1.95) ** (1 / 3))
    scaled = against({seed: [7 * x for x in xs] for seed, xs in worse.items()}, better, logarithms=True)
    assert np.subtract(scaled.differences, found.differences) == pytest.approx(math.log(7))
    apart = against({"0": worse["0"]}, better, logarithms=True)
    assert apart.test == f"{WELCH} of logarithms"


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm(ps: list[float | None]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    known = [p for p in ps if p is not None]
    expected = iter(multitest.multipletests(known, method="holm")[1] if known else [])
    assert holm(ps) == [None if p is None else pytest.approx(next(expected), abs=1e-12) for p in ps]


@pytest.mark.parametrize("d", [0.11, 0.3, -0.5, 1.0, 2.5, 6.0])
def test_pairs_needed(d: float) -> None:
    """The fewest whole pairs with a power of 0.8, which statsmodels finds as a fraction."""
    power = pytest.importorskip("statsmodels.stats.power").TTestPower()
    needed = pairs_needed(d)
    assert needed is not None
    assert power.power(abs(d), needed, 0.05) >= 0.8
    assert needed == 2 or not power.power(abs(d), needed - 1, 0.05) >= 0.8  # it may be NaN


def test_no_number_of_seeds_finds_next_to_nothing() -> None:
    assert pairs_needed(0.001) is None
    assert pairs_needed(0) is None


def test_bootstrap_intervals_are_scipys() -> None:
    values = np.random.default_rng(3).normal(2, 1, 9)
    for ours, statistic in (
        (bootstrap_mean, np.mean),
        (bootstrap_standardized, lambda x, axis: x.mean(axis) / x.std(axis, ddof=1)),
    ):
        expected = scipy.stats.bootstrap(
            (values,), statistic, method="percentile", n_resamples=20_000, rng=1, axis=-1
        ).confidence_interval
        found = ours(values.tolist())
        width = expected.high - expected.low
        assert found == pytest.approx((expected.low, expected.high), abs=0.08 * width)
        assert found == ours(values.tolist())


def test_an_effect_and_its_interval() -> None:
    found = Comparison(PAIRED, 0.1, (1.0, 2.0, 4.0))
    assert standardized([1.0, 2.0, 4.0]) == pytest.approx(np.mean([1, 2, 4]) / np.std([1, 2, 4], ddof=1))
    assert found.effect is not None
    value, interval = found.effect
    assert interval is not None
    assert interval[0] < value < interval[1]
    assert found.seeds_needed == pairs_needed(value)


@settings(deadline=None, max_examples=25)
@given(st.integers(4, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_rank_correlation(n: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n), rng.normal(size=n)
    x, y = (np.round(x), np.round(y)) if ties else (x, y)
    found = spearman(x, y, range(n))
    if np.ptp(x) and np.ptp(y):
        assert found is not None
        assert found[0] == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    else:
        assert found is None


def test_runs_of_one_setting_are_no_further_settings() -> None:
    """Copies of each setting's run make the interval of a correlation no narrower."""
    x = np.random.default_rng(0).normal(size=8)
    y = x + np.random.default_rng(1).normal(size=8)
    once, often = (spearman(np.repeat(x, k), np.repeat(y, k), np.repeat(range(8), k)) for k in (1, 10))
    assert once is not None
    assert often is not None
    assert once[1] is not None
    assert often[1] is not None
    width, same = (interval[1] - interval[0] for interval in (once[1], often[1]))
    assert same == pytest.approx(width, rel=0.2)
    assert spearman([1, 2, 3, 4], [2, 1, 4, 3], "aabb") == (pytest.approx(0.6), None)
