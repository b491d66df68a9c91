"""The effective weight: its value, its gradient, and when the singular vectors move."""

import copy
from collections.abc import Callable

import pytest
import torch
from norm_networks import (
    ESTIMATORS,
    GAMMAS,
    LAYERS,
    Alone,
    Together,
    images,
    moved,
    network,
    normalized,
    vectors,
)
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn.utils import parametrize

from gan_lab import norms

every_norm = pytest.mark.parametrize("estimator", ESTIMATORS)
every_gamma = pytest.mark.parametrize("gamma", GAMMAS)


@every_norm
@every_gamma
def test_the_effective_weight_is_the_scaled_weight_over_sigma(estimator: str, gamma: str) -> None:
    plain, net = network(), normalized(estimator, gamma, scale=1.3)
    found = norms.sigmas(net)
    for name in LAYERS:
        weight, effective = plain.get_submodule(name).weight, net.eval().get_submodule(name).weight
        torch.testing.assert_close(effective, 1.3 * weight / found[f"sigma/{name}"])


@every_norm
@every_gamma
@pytest.mark.parametrize("cached_weights", [Alone, Together])
def test_gradients_equal_finite_differences(estimator: str, gamma: str, cached_weights: type[Alone]) -> None:
    """Of the scores by every parameter, scales included, in float64 with the vectors held fixed."""
    net = network().double()
    x = images().double()
    norms.normalize(net, ESTIMATORS[estimator], 1.3, gamma, example_input=x)
    net.eval()
    named = dict(net.named_parameters())
    scales = [name for name in named if name.endswith("scale")]
    assert len(scales) == {"none": 0, "shared": 1, "per_layer": len(LAYERS)}[gamma]
    assert all(parameter.dtype == torch.float64 for parameter in named.values())

    def scores(*values: Tensor) -> Tensor:
        parameters = {f"net.{name}": value for name, value in zip(named, values, strict=True)}
        return functional_call(cached_weights(net), parameters, x)

    values = tuple(parameter.detach().requires_grad_() for parameter in named.values())
    assert gradcheck(scores, values, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=False)


@every_norm
def test_the_gradient_in_training_is_that_of_the_vectors_after_the_step(estimator: str) -> None:
    """Two passes, each with a power iteration, then one backward through both."""
    net = normalized(estimator)
    first = net(images())
    after_first = {name: value.clone() for name, value in net.state_dict().items()}
    second = net(images())
    (first.sum() + second.sum()).backward()
    sums = [parameter.grad.clone() for parameter in net.parameters()]

    net.zero_grad()
    net.eval()(images()).sum().backward()
    net.load_state_dict(after_first)
    net(images()).sum().backward()
    for parameter, expected in zip(net.parameters(), sums, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


@every_norm
def test_vectors_move_once_in_a_training_pass(estimator: str) -> None:
    net = normalized(estimator, warmup_iterations=0)
    by_hand = normalized(estimator, warmup_iterations=0)
    assert not any(moved(vectors(by_hand), net))
    net(images())
    for _, layer, norm in norms.normalized_layers(by_hand):
        norm.estimator.power_iterate(norms.trained_weight(layer))
    assert not any(moved(vectors(by_hand), net))


@every_norm
def test_n_power_iterations(estimator: str) -> None:
    net = normalized(estimator, warmup_iterations=0, n_power_iterations=3)
    by_hand = normalized(estimator, warmup_iterations=3)
    net(images())
    assert not any(moved(vectors(by_hand), net))


@every_norm
def test_two_passes_in_one_cache_move_the_vectors_once(estimator: str) -> None:
    net, twin = normalized(estimator), normalized(estimator)
    with parametrize.cached():
        net(images()), net(2 * images())
    twin(images())
    assert not any(moved(vectors(twin), net))


@every_norm
def test_nothing_moves_in_eval_mode_or_where_frozen(estimator: str) -> None:
    net = normalized(estimator, warmup_iterations=0)
    before = vectors(net)
    net.eval()(images())
    with norms.frozen(net.train()):
        net(images())
        with norms.frozen(net):
            net(images())
        net(images())
    norms.sigmas(net)
    list(norms.normalized_layers(net))
    assert not any(moved(before, net))
    net(images())
    assert any(moved(before, net))


def test_frozen_ends_with_an_error() -> None:
    net = normalized("out", warmup_iterations=0)
    before = vectors(net)
    with pytest.raises(KeyError), norms.frozen(net):
        raise KeyError
    net(images())
    assert any(moved(before, net))


@every_norm
def test_sigma_stays_float32_under_autocast(estimator: str) -> None:
    net, twin = normalized(estimator), normalized(estimator)
    twin(images())
    with torch.autocast("cpu", torch.bfloat16):
        scores = net(images())
        weights = [layer.weight for _, layer, _ in norms.normalized_layers(net.eval())]
    assert scores.dtype == torch.bfloat16
    assert not any(moved(vectors(twin), net))
    for weight, (_, layer, _) in zip(weights, norms.normalized_layers(twin.eval()), strict=True):
        assert weight.dtype == torch.float32
        assert torch.equal(weight, layer.weight)
    scores.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


@every_norm
def test_assigning_a_weight_normalizes_that_weight(estimator: str) -> None:
    net = normalized(estimator).eval()
    with torch.no_grad():
        net[7].weight = 5 * norms.trained_weight(net[7])
    torch.testing.assert_close(net[7].weight.norm(), torch.tensor(1.3))


@every_norm
@every_gamma
def test_scales_are_trained(estimator: str, gamma: str) -> None:
    net = normalized(estimator, gamma)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    (net(images()) - 1).square().mean().backward()
    optimizer.step()
    learned = {name: value.item() for name, value in norms.sigmas(net).items() if name.startswith("gamma/")}
    assert list(learned) == ([f"gamma/{name}" for name in LAYERS] if gamma != "none" else [])
    assert all(value != pytest.approx(1.3, abs=1e-6) for value in learned.values())
    assert len(set(learned.values())) == {"none": 0, "shared": 1, "per_layer": len(LAYERS)}[gamma]


# Dynamo looks at .grad of the weights that parametrize keeps between two passes.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("estimator", ["bidirectional", "operator"])
def test_compiled_networks_train_the_same(estimator: str) -> None:
    """With the graphs of forward and backward that inductor would get; compiling them takes a minute."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(18, 1))
    norms.normalize(net, ESTIMATORS[estimator], 1.3, "shared", example_input=images(1))
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, backend="aot_eager")
    runs: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [(net, compiled), (twin, twin)]
    for _ in range(2):
        scores = []
        for owner, forward in runs:
            with parametrize.cached():
                scores.append(forward(images()) + forward(2 * images()))
            owner.zero_grad()
            scores[-1].square().sum().backward()
            with torch.no_grad():
                for parameter in owner.parameters():
                    parameter -= 0.01 * parameter.grad
        torch.testing.assert_close(*scores)
    with norms.frozen(net, twin):
        torch.testing.assert_close(compiled(images()), twin(images()))
    torch.testing.assert_close(compiled.eval()(images()), twin.eval()(images()))
    for one, other in zip(vectors(net), vectors(twin), strict=True):
        torch.testing.assert_close(one[0], other[0])  # those beside it may be directions of rounding errors
