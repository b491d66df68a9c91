"""Penalties against numerically differentiated discriminators, a closed form, and numpy's formula."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_lab import norms
from gan_lab.archs import dcgan, resnet
from gan_lab.penalties import R1, GradientPenalty
from gan_lab.rng import stream


class Toy(nn.Module):
    """A smooth score of an image: aᵀ tanh(M x)."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.m = nn.Parameter(torch.randn(5, pixels, generator=rng, dtype=torch.double))
        self.a = nn.Parameter(torch.randn(5, generator=rng, dtype=torch.double))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1) @ self.m.t()) @ self.a


def batch(seed: int, count: int = 4, side: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=rng, dtype=torch.double) * 2 - 1


def numeric_slopes(network: nn.Module, images: Tensor, step: float = 1e-6) -> np.ndarray:
    """‖∇_x D(x)‖ of each image by central differences, pixel by pixel."""
    slopes = []
    with torch.no_grad():
        for image in images:
            shifts = step * torch.eye(image.numel(), dtype=image.dtype).reshape(-1, *image.shape)
            gradient = (network(image + shifts) - network(image - shifts)) / (2 * step)
            slopes.append(np.sqrt((gradient.numpy() ** 2).sum()))
    return np.array(slopes)


def penalized(
    penalty: GradientPenalty | R1, network: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator
) -> Tensor:
    noise = penalty.draw(len(real), rng)
    return penalty(network, real, fake, None if noise is None else noise.to(real))


def points_between(real: Tensor, fake: Tensor, seed: int) -> Tensor:
    mix = torch.rand(len(real), 1, 1, 1, generator=torch.Generator().manual_seed(seed)).to(real.dtype)
    return (1 - mix) * real + mix * fake


def test_gradient_penalty_against_numerical_slopes() -> None:
    network, real, fake = Toy(12), batch(1), batch(2)
    value = penalized(GradientPenalty(coefficient=7.0), network, real, fake, torch.Generator().manual_seed(3))
    slopes = numeric_slopes(network, points_between(real, fake, 3))
    assert value.item() == pytest.approx(7 * ((slopes - 1) ** 2).mean(), rel=1e-7)


def test_r1_against_numerical_slopes() -> None:
    network, real, fake = Toy(12), batch(1), batch(2)
    value = penalized(R1(coefficient=7.0), network, real, fake, torch.Generator())
    assert value.item() == pytest.approx(7 / 2 * (numeric_slopes(network, real) ** 2).mean(), rel=1e-7)


@pytest.mark.parametrize("penalty", [GradientPenalty(), R1()], ids=["gradient_penalty", "r1"])
def test_the_derivative_in_the_weights_against_finite_differences(penalty: GradientPenalty | R1) -> None:
    network, real, fake = Toy(12), batch(1), batch(2)

    def value() -> Tensor:
        return penalized(penalty, network, real, fake, torch.Generator().manual_seed(3))

    exact = torch.autograd.grad(value(), (network.m, network.a))
    for parameter, gradient in zip((network.m, network.a), exact, strict=True):
        numeric = torch.zeros_like(parameter)
        for index in np.ndindex(*parameter.shape):
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[index] += sign * 1e-6
                numeric[index] += sign * value().item() / 2e-6
                with torch.no_grad():
                    parameter[index] -= sign * 1e-6
        torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_a_linear_score_of_slope_one_costs_nothing() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0)).double()
    with torch.no_grad():
        linear[1].weight /= linear[1].weight.norm()
    rng = torch.Generator().manual_seed(0)
    found = [penalized(kind, linear, batch(1), batch(2), rng).item() for kind in (GradientPenalty(), R1(10))]
    assert found == [pytest.approx(0, abs=1e-20), pytest.approx(5)]


def test_a_flat_discriminator_has_finite_gradients() -> None:
    network = Toy(12)
    with torch.no_grad():
        network.a.zero_()
    penalty = penalized(GradientPenalty(), network, batch(1), batch(2), torch.Generator())
    assert penalty.item() == pytest.approx(10)
    penalty.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_points_lie_between_the_pairs_and_follow_the_stream() -> None:
    seen: list[Tensor] = []

    class Recorder(Toy):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    real, fake = batch(1, count=64), batch(2, count=64)
    for iteration in (5, 5, 6):
        penalized(GradientPenalty(), Recorder(12), real, fake, stream(0, "penalty", iteration, 0))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    mix = ((seen[0] - real) / (fake - real)).flatten(1)
    torch.testing.assert_close(mix, mix[:, :1].expand_as(mix))  # one point of one line for each pair
    assert mix.min() >= 0
    assert mix.max() <= 1
    assert 0.35 < mix[:, 0].mean() < 0.65


@pytest.mark.parametrize("penalty", [GradientPenalty(), R1()], ids=["gradient_penalty", "r1"])
@pytest.mark.parametrize("make", [dcgan.Discriminator, resnet.Discriminator], ids=["dcgan", "resnet"])
def test_one_normalization_serves_scores_and_penalty(make: type, penalty: GradientPenalty | R1) -> None:
    """Inside `parametrize.cached()` the power iteration moves as for one pass, and gradients arrive."""
    torch.manual_seed(0)
    network = make(32, width=1 / 32)
    norms.normalize(network, norms.SigmaBidirectional, warmup_iterations=0)
    twin = make(32, width=1 / 32)
    norms.normalize(twin, norms.SigmaBidirectional, warmup_iterations=0)
    twin.load_state_dict(network.state_dict())
    real, fake = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    with parametrize.cached():
        scores = network(real), network(fake)
        added = penalized(penalty, network, real, fake, torch.Generator())
    (scores[1].mean() - scores[0].mean() + added).backward()
    twin(real)
    for (name, ours), theirs in zip(network.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    for name, parameter in network.named_parameters():
        if "weight" in name:
            assert parameter.grad.abs().sum() > 0, name
