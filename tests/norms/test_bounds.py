"""Gradient bounds: never exceeded in training, and attained where theory says that they can be."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from norm_families import FAMILIES
from norm_networks import ESTIMATORS
from norm_oracles import Case, cases
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn.utils import parametrize

from gan_lab import losses, norms, probes
from gan_lab.archs.resnet import Down, DownBlock, SumPool
from gan_lab.layers import weighted_layers
from gan_lab.norms.audit import audit
from gan_lab.norms.bounds import PatchNorms, gradient_bounds, weight_factor
from gan_lab.norms.parametrization import SpectralNormalization

SIZE = 8


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(6, 8, 4, stride=2, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 81, 1),
        nn.Flatten(0),
    )


def residual() -> nn.Sequential:
    return nn.Sequential(
        DownBlock(3, Down(6, 8), first=True),
        DownBlock(8, Down(8, 8, down=False, project=False)),
        nn.ReLU(),
        SumPool(4),
        nn.Linear(8, 1),
        nn.Flatten(0),
    )


NETWORKS = {"chain": chain, "residual": residual}
NORMS: dict[str, tuple[str, float, str] | None] = {
    "none": None,
    "sn": ("out", 1.0, "none"),
    "ssn": ("out", 1.4, "none"),
    "bsn": ("bidirectional", 1.0, "none"),
    "bssn, shared gamma": ("bidirectional", 1.2, "shared"),
    "strict": ("operator", 1.0, "none"),
    "strict, own gammas": ("operator", 2.0, "per_layer"),
}
NETWORKS_AND_NORMS = [(network, norm) for network in NETWORKS for norm in NORMS]
NETWORKS_AND_NORMS += [(list(NETWORKS)[number % 2], name) for number, name in enumerate(FAMILIES)]
LOSSES = [losses.Hinge(), losses.Wasserstein(), losses.NonSaturating()]


@pytest.mark.parametrize(("network", "norm"), NETWORKS_AND_NORMS)
def test_no_gradient_exceeds_its_bound_in_training(network: str, norm: str) -> None:
    """A discriminator learns to tell stripes from noise, at a rate that moves its weights far."""
    torch.manual_seed(0)
    net = NETWORKS[network]()
    for layer in net.modules():  # biases of the activations' own size
        if getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias)
    if norm in FAMILIES:
        options = {"scale": 1.3, **FAMILIES[norm]}
        norms.normalize(net, example_input=torch.zeros(1, 3, SIZE, SIZE), **options)
    elif NORMS[norm]:
        estimator, scale, gamma = NORMS[norm]
        norms.normalize(net, ESTIMATORS[estimator], scale, gamma, example_input=torch.zeros(1, 3, SIZE, SIZE))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02, betas=(0.0, 0.9))
    stripes = torch.sin(torch.arange(SIZE) * torch.rand(16, 3, 1, 1) * 3).expand(16, 3, SIZE, SIZE)
    compared = 0
    for step in range(24):
        fake = torch.randn(16, 3, SIZE, SIZE)
        patches = PatchNorms(net)
        with parametrize.cached(), patches:
            scores = net(stripes), net(fake)
        loss = sum(LOSSES[step % 3].discriminator(*scores))
        score_gradients = torch.autograd.grad(loss, scores, retain_graph=True)
        optimizer.zero_grad()
        loss.backward()
        if step % 4 == 3:
            found = probes.audited(net, stripes[:1], patches, score_gradients)
            for name, value in probes.gradient_norms(net, "d").items():
                if name != "grad_norm/d":
                    bound = found[name.replace("grad_norm", "grad_bound")]
                    assert value <= bound * (1 + 1e-6), (step, name)
                    compared += int(value > 0)
        optimizer.step()
    assert compared >= 5 * len(list(weighted_layers(net)))


def measured_and_bound(
    net: nn.Module, batches: Sequence[Tensor], weights: Sequence[Tensor]
) -> dict[str, tuple[float, float]]:
    """(gradient norm, bound) by layer for the loss Σ weights · scores, in float64."""
    net, batches = net.double(), [batch.double() for batch in batches]
    net.zero_grad()
    patches = PatchNorms(net)
    with parametrize.cached(), patches:
        scores = [net(batch) for batch in batches]
    sum((w * s).sum() for w, s in zip(weights, scores, strict=True)).backward()
    bounds = gradient_bounds(net, audit(net, batches[0][:1]), patches, weights)
    found = probes.gradient_norms(net, "d")
    return {
        name.removeprefix("grad_bound/d/"): (found[name.replace("bound", "norm")].item(), bound.item())
        for name, bound in bounds.items()
    }


class Sum(nn.Module):
    """x + convolution(x)."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)

    def chains(self) -> list[list[nn.Module]]:
        return [[], [self.convolution]]


FIRST = {
    "3×3": nn.Conv2d(3, 4, 3),
    "stride 2": nn.Conv2d(3, 4, (2, 3), stride=2),
    "dilation 2": nn.Conv2d(3, 4, 3, dilation=2),
    "two groups": nn.Conv2d(4, 4, 3, groups=2),
    "transposed": nn.ConvTranspose2d(3, 4, 1),
}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("between", ["nothing", "convolution", "sum"])
def test_the_bound_is_attained(first: str, between: str) -> None:
    """By linear layers, constant images and one channel's sum for a score: every step is an equality."""
    torch.manual_seed(0)
    layer = copy.deepcopy(FIRST[first])
    image = torch.randn(1, layer.in_channels, 1, 1).expand(-1, -1, SIZE, SIZE).clone()
    if layer.groups == 2:
        image[:, 2:] = 0  # the gradient of one group alone can be as large as both groups' patches allow
    positions = layer(image)[0, 0].numel()
    linear = nn.Linear(4 * positions, 1)
    with torch.no_grad():
        linear.weight.zero_()[0, :positions] = 1  # the sum over all positions of channel 0
    doubling = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    nn.init.dirac_(doubling.weight).data.mul_(2)
    middle = {"nothing": nn.Identity(), "convolution": doubling, "sum": Sum(doubling)}[between]
    net = nn.Sequential(layer, middle, nn.Flatten(), linear, nn.Flatten(0))

    batches = [image.repeat(3, 1, 1, 1), image.repeat(3, 1, 1, 1)]
    weights = [torch.rand(3).double(), torch.rand(3).double()]
    measured, bound = measured_and_bound(net, batches, weights)["0"]
    assert measured == pytest.approx(bound, rel=1e-9)
    # And of other pixels it is an inequality, not an identity.
    measured, bound = measured_and_bound(net, [torch.randn(3, layer.in_channels, SIZE, SIZE)] * 2, weights)[
        "0"
    ]
    assert measured < 0.95 * bound


def test_the_last_layers_bound_is_attained_by_one_image() -> None:
    """Whatever the image, the gradient is the derivative by the score times the image."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0))
    x = torch.randn(1, 3, 2, 2)
    measured, bound = measured_and_bound(net, [x], [torch.tensor([0.7]).double()])["1"]
    assert measured == pytest.approx(bound) == pytest.approx(0.7 * x.norm().item(), rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 3, 2), nn.Linear(5, 3), nn.ConvTranspose2d(2, 3, 2, groups=1)]
)
def test_the_weight_factor_is_the_norm_of_the_normalizations_derivative(
    estimator: str, layer: nn.Module
) -> None:
    """Exactly: the largest singular value of ∂W̄/∂W, vectors fixed, converged or not."""
    torch.manual_seed(0)
    layer = layer.double()
    size = () if isinstance(layer, nn.Linear) else (4, 4)
    make = ESTIMATORS[estimator]
    norm = SpectralNormalization(
        make(layer, size) if make.needs_input_size else make(layer), scale=1.7
    ).eval()
    weight = layer.weight.detach()
    for iterations in (0, 1, 100):
        for _ in range(iterations):
            norm.estimator.power_iterate(weight)
        derivative = jacobian(norm, weight).reshape(weight.numel(), -1)
        assert weight_factor(norm, weight) == pytest.approx(
            float(torch.linalg.matrix_norm(derivative, 2)), rel=1e-9
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_no_weight_factor_is_below_the_norm_of_the_derivative(name: str) -> None:
    """Of every family, and of most it is that norm: clipped, shrunk or not, converged or not."""
    torch.manual_seed(0)
    for layer in (nn.Conv2d(2, 3, 2), nn.Linear(5, 3), nn.Linear(5, 1)):
        for scale, iterations in ((0.1, 0), (0.4, 50), (30.0, 50)):
            net = nn.Sequential(copy.deepcopy(layer).double())
            x = torch.zeros(1, *((2, 4, 4) if isinstance(layer, nn.Conv2d) else (5,))).double()
            options = {**FAMILIES[name], "scale": scale, "warmup_iterations": iterations}
            norms.normalize(net, example_input=x, **options)
            ((_, owner, norm),) = norms.normalized_layers(net.eval())
            weight = norms.trained_weight(owner).detach()
            derivative = jacobian(norm, weight).reshape(weight.numel(), -1)
            exact = float(torch.linalg.matrix_norm(derivative, 2))
            factor = weight_factor(norm, weight)
            assert exact <= factor * (1 + 1e-9)
            if name not in ("filters' gammas", "weight norm", "stable rank"):
                assert factor == pytest.approx(exact, rel=1e-3)  # a bound's rounding margin is in both


@settings(max_examples=100)
@given(cases(transposed=False))
def test_patch_norms_are_those_of_the_unfolded_input(case: Case) -> None:
    layer, x = case.layer(), case.images(2)
    with PatchNorms(layer) as patches:
        layer(x), layer(2 * x)
    unfolded = (
        F.unfold(x, case.kernel, case.dilation, case.padding, case.stride).double().flatten(1).norm(dim=1)
    )
    torch.testing.assert_close(patches.passes[layer], [unfolded, 2 * unfolded], rtol=1e-6, atol=0)


def test_patch_norms_of_other_layers() -> None:
    x = torch.randn(2, 5, 7)
    conv, linear, transposed = nn.Conv1d(5, 2, 3, stride=2), nn.Linear(7, 2), nn.ConvTranspose1d(5, 2, 4)
    net = nn.ModuleList([conv, linear, transposed])
    with PatchNorms(net) as patches:
        conv(x), linear(x), transposed(x)
    windows = x.unfold(2, 3, 2).flatten(1).norm(dim=1)
    torch.testing.assert_close(patches.passes[conv], [windows.double()])
    torch.testing.assert_close(patches.passes[linear], [x.flatten(1).norm(dim=1).double()])
    torch.testing.assert_close(patches.passes[transposed], [2 * x.flatten(1).norm(dim=1).double()])
    conv(x)
    assert len(patches.passes[conv]) == 1
    with PatchNorms(None) as nothing:
        conv(x)
    assert not nothing.passes


def bounds_of(net: nn.Module, passes: int = 1) -> dict[str, Tensor]:
    x = torch.sin(torch.arange(4.0 * 3 * SIZE * SIZE)).reshape(4, 3, SIZE, SIZE)
    with PatchNorms(net) as patches:
        scores = [net(x) for _ in range(passes)]
    return gradient_bounds(net, audit(net, x), patches, [torch.ones(4) for _ in scores])


class Opaque(nn.Module):
    """A module that states its constant and not what it is made of."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def lipschitz(self) -> float:
        return self.constant


def test_layers_inside_a_module_that_states_its_constant_have_no_bound() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), Opaque(5), nn.Flatten(), nn.Linear(192, 1), nn.Flatten(0))
    single = bounds_of(net)
    assert list(single) == ["grad_bound/d/0", "grad_bound/d/3"]
    net[1].constant = 10
    doubled = bounds_of(net)
    assert doubled["grad_bound/d/0"].item() == pytest.approx(2 * single["grad_bound/d/0"].item())
    assert doubled["grad_bound/d/3"] == single["grad_bound/d/3"]


def shared_layer() -> nn.Module:
    layer = nn.Conv2d(3, 3, 1)
    return nn.Sequential(layer, layer, SumPool(SIZE), nn.Linear(3, 1), nn.Flatten(0))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), SumPool(SIZE), nn.Linear(3, 1), nn.Flatten(0))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (shared_layer, "layer 0 is used 2 times in 1 passes"),
        (with_batch_norm, "batch norm in training mode"),
        (lambda: nn.Sequential(chain()[:9], nn.GELU(), chain()[9:]), "GELU"),
    ],
)
def test_where_an_assumption_fails_there_is_no_bound(make: Callable[[], nn.Module], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        bounds_of(make())


def test_batch_norm_in_eval_mode_is_one_more_linear_layer() -> None:
    net = with_batch_norm().eval()
    bounds = []
    for variance in (1.0, 1 / 16):
        net[1].running_var.fill_(variance - net[1].eps)
        bounds.append(bounds_of(net)["grad_bound/d/0"].item())
    assert bounds[1] == pytest.approx(4 * bounds[0], rel=1e-5)
