"""The digits classifier reads digits, is the same each time, and is trained once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gan_lab.data.digits import load_grey, to_rgb
from gan_lab.metrics import digits_extractor, extractors


def test_it_reads_digits_that_it_was_not_trained_on(digits_weights: Path) -> None:
    network = digits_extractor.load(digits_weights)
    _, held_out = digits_extractor.split()
    grey, labels = load_grey()
    features, logits = network(torch.from_numpy(to_rgb(grey[held_out], 32)))
    assert features.shape == (360, 64)
    assert np.mean(logits.argmax(dim=1).numpy() == labels[held_out]) >= 0.98


def test_it_is_trained_on_the_other_digits_alone() -> None:
    train, held_out = digits_extractor.split()
    assert sorted([*train, *held_out]) == list(range(1797))
    assert len(held_out) == 360


def test_two_trainings_are_equal_bit_for_bit(digits_weights: Path, tmp_path: Path) -> None:
    """Whatever the state of the global stream and the number of threads; both are left as they were."""
    torch.manual_seed(123)
    torch.rand(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = digits_extractor.weights(tmp_path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.read_bytes() == digits_weights.read_bytes()


def test_it_is_trained_once(digits_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_extractor, "_train", lambda: pytest.fail("trained again"))
    assert digits_extractor.weights(digits_weights.parent) == digits_weights


def test_damaged_weights_are_trained_anew(
    digits_weights: Path, tmp_path: Path, warnings_of_metrics: pytest.LogCaptureFixture
) -> None:
    damaged = tmp_path / "cache" / digits_weights.name
    damaged.parent.mkdir()
    damaged.write_bytes(digits_weights.read_bytes()[:-1000])
    extractor = extractors.digits(str(tmp_path))
    assert str(damaged) in warnings_of_metrics.text
    assert damaged.read_bytes() == digits_weights.read_bytes()
    assert extractor.suffix == "_digits"
