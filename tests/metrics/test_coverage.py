"""Density and coverage against their definition, written out in NumPy, and on sets of known figures."""

import numpy as np
import pytest
import torch

from gan_lab.metrics import coverage
from gan_lab.metrics.coverage import density_and_coverage


def points(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, 3))


@pytest.mark.parametrize("at_once", [1024, 7])
def test_they_are_those_of_the_definition(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "AT_ONCE", at_once)
    real, generated, k = points(40, 0), points(30, 1, 0.7), 4
    balls = [(x, sorted(np.linalg.norm(real - x, axis=1))[k]) for x in real]
    density = sum(np.linalg.norm(y - x) < radius for y in generated for x, radius in balls) / (k * 30)
    covered = np.mean([any(np.linalg.norm(y - x) < radius for y in generated) for x, radius in balls])
    found = density_and_coverage(torch.from_numpy(real), torch.from_numpy(generated), k)
    assert found == pytest.approx((density, covered), abs=1e-12)
    assert found[0] > 0
    assert 0 < found[1] < 1


def test_sets_whose_figures_are_known() -> None:
    real = torch.from_numpy(points(60, 0))
    assert density_and_coverage(real, real)[1] == 1
    assert density_and_coverage(real, real + 1000) == (0, 0)
    centre = real.mean(dim=0, keepdim=True)
    dense, reached = density_and_coverage(real, centre.repeat(30, 1))  # one image, again and again
    assert dense > 1
    assert reached < 1
