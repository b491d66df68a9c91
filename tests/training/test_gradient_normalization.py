"""Gradient normalization against closed forms, its slopes, and what it leaves of a network; in training."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from test_forward import built
from torch import Tensor, nn
from toys import LABELS, Projection, toy_discriminator, toy_gan, toys

from gan_lab import norms
from gan_lab.archs import dcgan, resnet
from gan_lab.losses import NonSaturating, Wasserstein
from gan_lab.norms.audit import audit
from gan_lab.norms.bounds import PatchNorms, gradient_bounds
from gan_lab.training.gan import Measure


class Quadratic(nn.Module):
    """f(x) = a‖x‖²/2 + b, whose gradient is a·x."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(number).double()) for number in (a, b))

    def forward(self, images: Tensor) -> Tensor:
        return self.a * images.flatten(1).square().sum(1) / 2 + self.b


def images(count: int = 4, side: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, side, side, generator=rng, dtype=torch.double).requires_grad_()


def normalized(network: nn.Module) -> nn.Module:
    norms.normalize_gradient(network)
    return network


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.0), (-0.3, 1.0), (2.0, -50.0)])
def test_values_and_gradients_of_a_quadratic_are_the_closed_form_s(a: float, b: float) -> None:
    """By the images, as the generator needs them, and by the parameters."""
    network, x = normalized(Quadratic(a, b)), images()
    scores = network(x)
    square = x.flatten(1).square().sum(1)
    f = network.a * square / 2 + network.b
    expected = f / ((network.a * square.sqrt()).abs() + f.abs())
    torch.testing.assert_close(scores, expected)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    leaves = (x, network.a, network.b)
    ours = torch.autograd.grad((weights * scores).sum(), leaves)
    torch.testing.assert_close(ours, torch.autograd.grad((weights * expected).sum(), leaves))


def test_a_linear_score_whose_slope_is_not_one() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0)).double()
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    f = images().detach().flatten(1) @ weight[0] + bias
    expected = f / (weight.norm() + f.abs())
    torch.testing.assert_close(normalized(network)(images()).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(network(images()), expected)
        assert not network(images()).requires_grad
        network[1].weight.mul_(1000), network[1].bias.mul_(1000)
        torch.testing.assert_close(network(images()), expected)  # it is the same of every multiple of f


def test_the_derivative_by_the_weights_against_finite_differences() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 1), nn.Flatten(0)
    ).double()
    x = images().detach()
    names, values = zip(*((name, p.detach()) for name, p in network.named_parameters()), strict=True)
    normalized(network)

    def scores(*parameters: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (x,))

    torch.autograd.gradcheck(scores, [value.requires_grad_() for value in values])


@pytest.mark.parametrize("arch", [dcgan, resnet], ids=["dcgan", "resnet"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_slope_is_a_function_of_the_score_and_at_most_one(
    arch: Callable[..., nn.Module], scale: float
) -> None:
    """(1 - |f̂|)², as ReLU networks are linear around an image."""
    torch.manual_seed(0)
    network = normalized(arch.Discriminator(32, 1 / 16).double())
    with torch.no_grad():
        network.linear.weight.mul_(scale)
        network.linear.bias.fill_(0.3)
    x = images(6, 32)
    scores = network(x)
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    slopes = gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close(slopes, (1 - scores.detach().abs()).square(), rtol=1e-6, atol=1e-9)
    assert slopes.max() <= 1
    assert scores.abs().max() < 1


def test_a_dead_network_has_scores_and_gradients_of_zero() -> None:
    network = toy_discriminator()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    scores = normalized(network)(x)
    assert scores.tolist() == [0, 0]
    scores.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in (x, *network.parameters()))


# --- of the network it leaves everything


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda network: pickle.loads(pickle.dumps(network))}


@pytest.mark.parametrize("way", COPIES)
def test_names_states_and_copies(way: str) -> None:
    plain, (_, network) = toys(norms.SigmaOut)[1], toys(norms.SigmaOut)
    normalized(network).eval(), plain.eval()
    x = torch.randn(3, 3, 8, 8)
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in network.named_modules()] == [name for name, _ in plain.named_modules()]
    twin = COPIES[way](network)
    assert torch.equal(twin(x), network(x))
    assert not torch.equal(network(x), plain(x))
    assert not {id(p) for p in network.parameters()} & {id(p) for p in twin.parameters()}
    with pytest.raises(ValueError, match="already"):
        norms.normalize_gradient(twin)
    norms.remove_gradient(twin)
    norms.remove_gradient(plain)  # which has none
    assert torch.equal(twin(x), plain(x))
    assert type(twin) is type(plain)


def test_it_has_no_lipschitz_constant_and_no_gradient_bounds_and_says_why() -> None:
    network = normalized(toy_discriminator())
    x = torch.randn(2, 3, 8, 8)
    with PatchNorms(network) as patches:
        network(x)
    exact = audit(network, x[:1])
    assert exact.lipschitz is None
    assert "jump where its slope does" in exact.lipschitz_unknown
    assert [row.layer for row in exact.layers] == ["0", "3"]
    with pytest.raises(ValueError, match="through its slope"):
        gradient_bounds(network, exact, patches, [torch.ones(2)])


def test_scores_jump_where_the_slope_does() -> None:
    """So that no Lipschitz constant can hold: f(x) = 1 + max(x, x/10), at 0 from both sides."""
    linear = nn.Linear(1, 1)
    nn.init.ones_(linear.weight), nn.init.ones_(linear.bias)
    network = normalized(nn.Sequential(nn.LeakyReLU(0.1), linear, nn.Flatten(0)).double())
    below, above = network(torch.tensor([[-1e-9], [1e-9]]).double()).tolist()
    assert (below, above) == (pytest.approx(1 / 1.1), pytest.approx(1 / 2))


# --- in training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ["dcgan", "resnet"])
def test_no_slope_exceeds_one_in_training(tiny: list[str], arch: str, precision: str) -> None:
    chosen = [f"arch={arch}", f"train.precision={precision}", "optimizer=adam_ndis5", "optimizer.d_lr=0.01"]
    gan = built([*tiny, "norm=gradient_normalization", "init=xavier", "train.batch_size=8", *chosen])
    assert gan.concatenate_real_and_fake
    rounding = 1e-5 if precision == "fp32" else 0.05
    slopes = []
    for iteration in range(1, 9):
        values = gan.update(gan.draw(iteration), Measure.PROBES)
        slopes += [values[f"slope/{kind}_max"].item() for kind in ("real", "fake")]
        assert abs(values["score/real"]) < 1
    assert 0 < max(slopes) <= 1 + rounding
    assert len(set(slopes)) == len(slopes)


@pytest.mark.parametrize("loss", [NonSaturating(), Wasserstein()], ids=["nonsaturating", "wasserstein"])
def test_both_updates_are_differentiated_through(loss: object) -> None:
    """A step of SGD for each network is that of a slope written out, which autograd differentiates once."""
    plain = toy_gan(loss=loss, optimizer=torch.optim.SGD, n_dis=1)
    ours = toy_gan(loss=loss, optimizer=torch.optim.SGD, n_dis=1)
    normalized(ours.discriminator)
    inputs = plain.draw(1)
    network = plain.discriminator

    def scores(x: Tensor) -> Tensor:
        """Leaky ReLU's slopes times the linear weight, back through the transposed kernel."""
        hidden = network[0](x)
        f = network[3](network[1](hidden).flatten(1))[:, 0]
        back = network[3].weight.view(1, *hidden.shape[1:]) * torch.where(hidden > 0, 1.0, 0.1)
        slope = nn.functional.conv_transpose2d(back, network[0].weight, stride=2, padding=1)
        return f / (slope.flatten(1).norm(dim=1) + f.abs())

    (update,) = inputs.discriminator
    fake = plain.generator(update.latents).detach()
    assert update.real is not None
    sum(loss.discriminator(scores(update.real), scores(fake))).backward()
    plain.d_optimizer.step()
    loss.generator(scores(plain.generator(inputs.generator.latents))).backward()
    plain.g_optimizer.step()
    ours.update(inputs)
    for name in ("discriminator", "generator"):
        expected = dict(getattr(plain, name).named_parameters())
        for key, parameter in getattr(ours, name).named_parameters():
            torch.testing.assert_close(parameter, expected[key], rtol=1e-4, atol=1e-6)
            assert parameter.grad is not None
            assert parameter.grad.any(), key


def test_scores_with_classes() -> None:
    network = normalized(Projection().double())
    x, labels = images(4, 8), torch.from_numpy(LABELS[:4])
    scores = network(x, labels)
    each = [network(x[k : k + 1], labels[k : k + 1]) for k in range(4)]
    torch.testing.assert_close(scores, torch.cat(each))
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    torch.testing.assert_close(
        gradient.flatten(1).norm(dim=1), (1 - scores.abs()).square(), check_dtype=False
    )


def test_its_discriminator_is_not_compiled(tiny: list[str]) -> None:
    """A compiled pass cannot be differentiated twice; the generator's is compiled still."""
    gan = built([*tiny, "norm=gradient_normalization", "train.compile=true"])
    assert gan._score._compiled is None
    assert gan._make_images._compiled is not None
