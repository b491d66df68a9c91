"""Standard errors and Welch's test against SciPy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_lab.report.statistics import mean, welch

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


def test_it_says_nothing_where_it_cannot() -> None:
    assert mean([]) is None
    alone = mean([3.0])
    assert alone is not None
    assert (alone.n, alone.mean, alone.error) == (1, 3.0, None)
    assert welch([1.0], [2.0, 3.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None
    assert welch([], [1.0, 2.0]) is None


def test_one_side_without_spread_is_no_obstacle() -> None:
    expected = scipy.stats.ttest_1samp([2.0, 2.5, 2.1], 1.0).pvalue  # what it comes to
    assert welch([1.0, 1.0], [2.0, 2.5, 2.1]) == pytest.approx(expected)
