"""No spike is lost between the points that are kept."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_lab.report.downsampling import downsample


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 3000),
    stretches=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    missing=st.floats(0, 0.9),
    beyond=st.integers(0, 5000),
)
def test_each_stretch_keeps_its_least_mean_and_most(
    rows: int, stretches: int, seed: int, missing: float, beyond: int
) -> None:
    rng = np.random.default_rng(seed)
    iteration = np.sort(rng.choice(np.arange(1, 5 * rows + 1), rows, replace=False))
    value = rng.standard_cauchy(rows).astype(np.float32)
    value[rng.random(rows) < missing] = np.nan
    last = int(iteration[-1]) + beyond
    series = downsample(iteration, value, stretches, last)
    there = np.isfinite(value)
    if there.sum() <= 3 * stretches:
        assert series.whole
        np.testing.assert_array_equal(series.iteration, iteration[there])
        np.testing.assert_array_equal(series.mean, value[there])
        return
    of_stretch = [int((k - 1) * stretches // last) for k in iteration]
    kept = [
        (iteration[members], value[members])
        for members in (
            [i for i in range(rows) if there[i] and of_stretch[i] == stretch] for stretch in range(stretches)
        )
        if members
    ]
    assert len(series.mean) == len(kept) <= stretches
    np.testing.assert_array_equal(series.least, [v.min() for _, v in kept])
    np.testing.assert_array_equal(series.most, [v.max() for _, v in kept])
    np.testing.assert_allclose(series.mean, [v.mean(dtype=np.float64) for _, v in kept], rtol=1e-6, atol=1e-6)
    assert all(k.min() - 1 <= mid <= k.max() + 1 for (k, _), mid in zip(kept, series.iteration, strict=True))


def test_one_spike_in_a_million_survives() -> None:
    iteration = np.arange(1, 1_000_001)
    value = np.zeros(1_000_000, np.float32)
    value[654_321] = 1e6
    series = downsample(iteration, value, 50, 1_000_000)
    assert series.most.max() == 1e6
    assert len(series.most) == 50


def test_nothing_is_nothing() -> None:
    assert len(downsample(np.arange(3), np.full(3, np.nan), 5, 3).mean) == 0
