"""Penalties against numerically differentiated discriminators, a closed form, and numpy's formula."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_lab import norms
from gan_lab.archs import dcgan, resnet
from gan_lab.layers import weighted_layers
from gan_lab.penalties import DRAGAN, R1, R1R2, R2, GradientPenalty, OfSlopes, Orthogonal
from gan_lab.rng import stream

EVERY_PENALTY = pytest.mark.parametrize(
    "penalty", [GradientPenalty(), DRAGAN(2), R1(), R2(), R1R2()], ids=lambda penalty: type(penalty).__name__
)


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
    penalty: OfSlopes, network: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator
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


@pytest.mark.parametrize(("kind", "on"), [(R1, "real"), (R2, "fake"), (R1R2, "real fake")])
def test_squared_slopes_against_numerical_ones(kind: type[OfSlopes], on: str) -> None:
    network, images = Toy(12), {"real": batch(1), "fake": batch(2)}
    value = penalized(kind(coefficient=7.0), network, images["real"], images["fake"], torch.Generator())
    expected = sum(7 / 2 * (numeric_slopes(network, images[name]) ** 2).mean() for name in on.split())
    assert value.item() == pytest.approx(expected, rel=1e-7)


def test_dragan_against_numerical_slopes() -> None:
    """Noise on every pixel, in half a deviation of all the batch's pixels to either side, cut off at ±1."""
    network, real, fake = Toy(12), 1.1 * batch(1, count=6), batch(2, count=6)
    value = penalized(DRAGAN(2, coefficient=7.0), network, real, fake, torch.Generator().manual_seed(3))
    noise = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(3)).numpy()
    near = np.clip(real.numpy() + real.numpy().std() * (noise - 0.5), -1, 1)
    assert (np.abs(near) == 1).any()
    slopes = numeric_slopes(network, torch.from_numpy(near))
    assert value.item() == pytest.approx(7 * ((slopes - 1) ** 2).mean(), rel=1e-6)


@EVERY_PENALTY
def test_a_lazy_penalty_counts_as_often_as_it_is_left_out(penalty: OfSlopes) -> None:
    network, real, fake = Toy(12), batch(1), batch(2)
    values = []
    for every in (1, 16):
        penalty.every = every
        values.append(penalized(penalty, network, real, fake, torch.Generator().manual_seed(0)).item())
    penalty.every = 1
    assert values[1] == pytest.approx(16 * values[0])


@EVERY_PENALTY
def test_the_derivative_in_the_weights_against_finite_differences(penalty: OfSlopes) -> None:
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
    kinds = (GradientPenalty(), DRAGAN(2), R1(10), R2(10), R1R2(10))
    found = [penalized(kind, linear, batch(1), batch(2), rng).item() for kind in kinds]
    assert found == [pytest.approx(0, abs=1e-20)] * 2 + [pytest.approx(5)] * 2 + [pytest.approx(10)]


@pytest.mark.parametrize(("kind", "terms"), [(R1, 1), (R2, 1), (R1R2, 2)])
def test_the_gradient_for_a_linear_score_is_the_coefficient_times_the_weight(
    kind: type[OfSlopes], terms: int
) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0)).double()
    penalized(kind(coefficient=3.0), linear, batch(1), batch(2), torch.Generator()).backward()
    torch.testing.assert_close(linear[1].weight.grad, 3 * terms * linear[1].weight.detach())


LAYERS = {
    "linear": lambda: nn.Linear(12, 5),
    "convolution": lambda: nn.Conv2d(3, 6, (2, 3)),
    "two groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed, two groups": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
}


def matrix(layer: nn.Module, weight: Tensor) -> np.ndarray:
    """`[c_out, c_in·k]` of the whole layer: what it makes of a unit at each place of its patch."""
    if isinstance(layer, nn.Linear):
        return weight.detach().numpy()
    groups, k = layer.groups, weight[0, 0].numel()
    whole = np.zeros((layer.out_channels, layer.in_channels, k))
    for out in range(layer.out_channels):
        for into in range(layer.in_channels):
            group = out * groups // layer.out_channels
            if group != into * groups // layer.in_channels:
                continue
            if isinstance(layer, nn.ConvTranspose2d):
                kernel = weight[into, out % (layer.out_channels // groups)]
            else:
                kernel = weight[out, into % (layer.in_channels // groups)]
            whole[out, into] = kernel.detach().numpy().ravel()
    return whole.reshape(layer.out_channels, -1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("is_normalized", [False, True], ids=["plain", "under a norm"])
def test_orthogonal_regularization_is_numpy_s(name: str, is_normalized: bool) -> None:
    """Of the trained weights, and its gradient, 4β (W Wᵀ ⊙ (1 − I)) W."""
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    if is_normalized:
        norms.normalize(layer, norms.SigmaOut)
    weight = norms.trained_weight(layer)
    rows = matrix(layer, weight)
    off_diagonal = rows @ rows.T * (1 - np.eye(len(rows)))
    value = Orthogonal(0.3)(layer, batch(1), batch(2), None)
    assert value.item() == pytest.approx(0.3 * (off_diagonal**2).sum())
    value.backward()
    assert weight.grad is not None
    np.testing.assert_allclose(
        matrix(layer, weight.grad), 4 * 0.3 * off_diagonal @ rows, rtol=1e-9, atol=1e-12
    )


def test_orthogonal_filters_of_any_size_cost_nothing() -> None:
    """And a network's penalty is the sum of its layers'."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    for _, layer in weighted_layers(network):
        nn.init.orthogonal_(layer.weight)
        layer.weight.data *= torch.rand(len(layer.weight), 1, 1, 1) * 3
    assert Orthogonal(1.0)(network, batch(1), batch(2), None).item() == pytest.approx(0, abs=1e-9)
    nn.init.normal_(network[0].weight)
    alone = Orthogonal(1.0)(network[0], batch(1), batch(2), None)
    assert Orthogonal(1.0)(network, batch(1), batch(2), None).item() == pytest.approx(alone.item(), rel=1e-6)


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


@pytest.mark.parametrize(
    "penalty", [GradientPenalty(), R1(), R1R2(), DRAGAN(32)], ids=["gp", "r1", "r1_r2", "dragan"]
)
@pytest.mark.parametrize("make", [dcgan.Discriminator, resnet.Discriminator], ids=["dcgan", "resnet"])
def test_one_normalization_serves_scores_and_penalty(make: type, penalty: OfSlopes) -> None:
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
