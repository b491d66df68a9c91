"""What a run's record says in the end, gathered row by row."""

from typing import Any

import pytest

from gan_lab.tracking.history import Extremes, History

ROWS: list[dict[str, Any]] = [
    {"iteration": 10, "speed/images_per_s": 100.0, "metric/fid_digits": 30.0, "metric/is_digits_mean": 2.0},
    {"iteration": 20, "speed/images_per_s": 900.0, "metric/fid_digits": 12.5, "metric/is_digits_mean": 3.5},
    {"iteration": 25, "speed/images_per_s": None, "metric/fid_digits": None, "loss/d": 1.0},
    {"iteration": 30, "speed/images_per_s": 110.0, "metric/fid_digits": 14.25, "metric/is_digits_mean": 3.25},
]


def test_extremes_of_every_metric() -> None:
    history = History(ROWS)
    assert history.metrics == {
        "metric/fid_digits": Extremes(last=14.25, least=12.5, most=30.0, iteration=30),
        "metric/is_digits_mean": Extremes(last=3.25, least=2.0, most=3.5, iteration=30),
    }
    assert history.fid == 14.25
    assert history.images_per_s == 110  # the median, which one odd figure does not move


def test_the_fid_is_that_of_the_first_protocol_that_measured_one() -> None:
    rows = [{"metric/is_mean": 5.0}, {"metric/fid_5k_5k": 3.0}, {"metric/fid": 2.0, "metric/fid_5k_5k": 1.0}]
    assert History({"iteration": 1, **row} for row in rows).fid == 1.0


def test_an_empty_record_says_nothing() -> None:
    history = History()
    assert history.metrics == {}
    assert (history.fid, history.images_per_s, history.stopped_learning()) == (None, None, None)


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([3.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0], 30),
        ([0.0, 0.0, 0.0], 0),
        ([0.0, 0.0, 0.0, 1.0], None),
        ([1.0, 0.0, 0.0], None),  # two batches may happen to be apart
        ([1.0, 0.0, None, 0.0], None),  # not finite
        ([], None),
    ],
)
def test_a_discriminator_that_stopped_learning_is_told(
    norms: list[float | None], expected: int | None
) -> None:
    history = History({"iteration": 10 * number, "grad_norm/d": norm} for number, norm in enumerate(norms, 1))
    history.add({"iteration": 10 * len(norms) + 5, "loss/d": 1.0})  # says nothing of the gradient
    assert history.stopped_learning() == expected
    if expected is not None:
        assert history.stopped_learning(least=10) is None
