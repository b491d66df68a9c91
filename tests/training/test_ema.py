"""The moving average against its closed form."""

import pytest
import torch
from torch import nn

from gan_lab import norms
from gan_lab.training.ema import ExponentialMovingAverage


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1)).double()


def test_closed_form_for_weights_and_batch_norm_statistics() -> None:
    """After n updates: dⁿ·w₀ + (1 − d)·Σ dⁿ⁻ᵏ·w_k."""
    live, decay, n = network(), 0.7, 6
    ema = ExponentialMovingAverage(live, decay)
    averaged = ("weight", "bias", "running_mean", "running_var")
    history = [{k: v.clone() for k, v in live.state_dict().items()}]
    for _ in range(n):
        with torch.no_grad():
            for parameter in live.parameters():
                parameter.add_(torch.randn_like(parameter))
        live(torch.randn(5, 3, 4, 4, dtype=torch.double))  # moves the statistics
        ema.update()
        history.append({k: v.clone() for k, v in live.state_dict().items()})
    for name, value in ema.state_dict().items():
        if not name.endswith(averaged):
            continue
        expected = decay**n * history[0][name]
        for k in range(1, n + 1):
            expected = expected + (1 - decay) * decay ** (n - k) * history[k][name]
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert ema.network[1].num_batches_tracked == live[1].num_batches_tracked == n


def test_the_live_network_is_left_alone_and_the_copy_is_not_trained() -> None:
    live = network()
    before = {name: value.clone() for name, value in live.state_dict().items()}
    ema = ExponentialMovingAverage(live, 0.5)
    ema.update()
    assert all(torch.equal(before[name], value) for name, value in live.state_dict().items())
    assert live.training
    assert not ema.network.training
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    torch.testing.assert_close(ema.state_dict(), before)  # the average of equal weights is the weight


def test_singular_vectors_of_a_norm_are_copied_not_averaged() -> None:
    live = network()
    norms.normalize(live, norms.SigmaOut, warmup_iterations=3)
    ema = ExponentialMovingAverage(live, 0.9)
    for _ in range(3):
        with torch.no_grad():
            live[3].parametrizations.weight.original.normal_()
        live(torch.randn(5, 3, 4, 4, dtype=torch.double))
        ema.update()
    vectors = {name: value for name, value in live.named_buffers() if name.endswith((".u", ".v"))}
    assert len(vectors) == 4
    ours = dict(ema.network.named_buffers())
    assert all(torch.equal(ours[name], value) for name, value in vectors.items())


def test_round_trip_of_the_state() -> None:
    live = network()
    ema = ExponentialMovingAverage(live, 0.9)
    with torch.no_grad():
        live[0].weight.normal_()
    ema.update()
    other = ExponentialMovingAverage(network(), 0.9)
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(other.state_dict()[name], value) for name, value in ema.state_dict().items())


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"{decay}"):
        ExponentialMovingAverage(network(), decay)
