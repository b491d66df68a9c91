"""All effective weights made together: what each layer makes alone, to rounding, and the same vectors."""

import copy
from typing import Any

import pytest
import torch
from norm_networks import ESTIMATORS, GAMMAS, images, moved, network, normalized, vectors
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_lab import norms
from gan_lab.norms import SigmaEstimator

every_norm = pytest.mark.parametrize("estimator", ESTIMATORS)


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor | None]:
    net.zero_grad()
    loss.backward()
    return [parameter.grad for parameter in net.parameters()]


@every_norm
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("steps", [1, 3])
def test_it_trains_as_layer_by_layer(estimator: str, gamma: str, steps: int) -> None:
    """Scores, gradients and vectors of three updates, two passes each, in float64."""
    net, twin = (
        normalized(estimator, gamma, warmup_iterations=0, n_power_iterations=steps).double() for _ in range(2)
    )
    x = images().double()
    for _ in range(3):
        with norms.cached_weights(net):
            scores = net(x) + net(2 * x)
        with parametrize.cached():
            expected = twin(x) + twin(2 * x)
        torch.testing.assert_close(scores, expected)
        torch.testing.assert_close(
            gradients(net, scores.square().sum()), gradients(twin, expected.square().sum())
        )
        for one, other in zip(vectors(net), vectors(twin), strict=True):
            same = torch.sign((one[0] * other[0]).sum())  # a singular vector is one up to its sign
            torch.testing.assert_close(one[0], same * other[0])  # where the rank is 1, the others are noise
        with torch.no_grad():
            for parameter in [*net.parameters(), *twin.parameters()]:
                parameter -= 0.01 * parameter.grad


@every_norm
def test_vectors_move_when_it_begins_and_never_inside(estimator: str) -> None:
    net, twin = normalized(estimator, warmup_iterations=0), normalized(estimator, warmup_iterations=1)
    with norms.cached_weights(net):
        after = vectors(net)
        for one, other in zip(after, vectors(twin), strict=True):
            torch.testing.assert_close(one[0], other[0])
        net(images()), net(images())
    assert not any(moved(after, net))
    net(images())
    assert any(moved(after, net))


@every_norm
def test_nothing_moves_in_eval_mode_where_frozen_or_if_not_moving(estimator: str) -> None:
    net = normalized(estimator, warmup_iterations=0)
    before, expected = vectors(net), net.eval()(images())
    with norms.cached_weights(net):
        torch.testing.assert_close(net(images()), expected)
    with norms.frozen(net.train()), norms.cached_weights(net):
        torch.testing.assert_close(net(images()), expected)
    with norms.cached_weights(net, update=False):
        torch.testing.assert_close(net(images()), expected)
    assert not any(moved(before, net))


def test_it_ends_with_an_error_too() -> None:
    net = normalized("out")
    with pytest.raises(RuntimeError, match="a pass that fails"), norms.cached_weights(net):
        raise RuntimeError("a pass that fails")
    before, scores = vectors(net), net.eval()(images())
    with torch.no_grad():
        norms.trained_weight(net[0])[0] = 0
    assert not torch.allclose(net(images()), scores)
    net.train()(images())
    assert any(moved(before, net))


def test_layers_without_a_gradient_get_none_and_a_learned_scale_gets_its_own() -> None:
    net, twin = (normalized("bidirectional", "per_layer").eval() for _ in range(2))
    for one in (net, twin):
        norms.trained_weight(one[0]).requires_grad_(False)
    with norms.cached_weights(net):
        found = gradients(net, net(images()).sum())
    expected = gradients(twin, twin(images()).sum())
    assert [one is None for one in found] == [one is None for one in expected]
    assert sum(one is None for one in found) == 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_layer_that_takes_no_part_gets_no_gradient() -> None:
    net = normalized("out")
    with norms.cached_weights(net):
        found = gradients(net, net[0](images()).sum())
    assert [one is None for one in found] == [name[0] != "0" for name, _ in net.named_parameters()]


def test_a_second_gradient_is_refused() -> None:
    net = normalized("out").eval()
    with norms.cached_weights(net):
        loss = net(images()).square().sum()
    (first,) = torch.autograd.grad(loss, norms.trained_weight(net[0]), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_an_estimator_of_the_users_own_beside_ours() -> None:
    class Counted(SigmaEstimator):
        steps = 0

        def __init__(self, layer: nn.Module) -> None:
            super().__init__()

        def power_iterate(self, weight: Tensor) -> None:
            self.steps += 1

        def forward(self, weight: Tensor) -> Tensor:
            return weight.norm()

    net = nn.Sequential(network(), network(1)[0])
    own, ours = net[1], net[0]
    norms.normalize(own, Counted, warmup_iterations=0)
    norms.normalize(ours, ESTIMATORS["out"])
    ((_, _, norm),) = norms.normalized_layers(own)
    before = vectors(ours)
    with norms.cached_weights(net), parametrize.cached():
        own(images()), own(images())
        assert norm.estimator.steps == 1
        torch.testing.assert_close(own.weight.norm(), torch.tensor(1.0))
    assert any(moved(before, ours))
    own(images())
    assert norm.estimator.steps == 2


@every_norm
def test_layers_of_several_precisions(estimator: str) -> None:
    nets = [normalized(estimator, seed=seed, warmup_iterations=3) for seed in (0, 1)]
    nets[1].double()
    both, twins = nn.ModuleList(nets), [copy.deepcopy(net) for net in nets]
    with norms.cached_weights(both):
        scores = [nets[0](images()), nets[1](images().double())]
    expected = [twins[0](images()), twins[1](images().double())]
    torch.testing.assert_close(scores, expected)


def test_norms_of_several_kinds_in_one_network() -> None:
    """Other sigmas, scales (learned, shared by two layers, numbers) and steps, a layer without a gradient."""
    kinds: list[dict[str, Any]] = [
        {"estimator": "out", "gamma": "per_layer", "n_power_iterations": 2},
        {"estimator": "bidirectional", "scale": 0.7},
        {"estimator": "in", "gamma": "shared"},
        {"estimator": "out", "scale": 1.1},
        {"estimator": "out", "seed": 1},
    ]
    nets = nn.ModuleList(normalized(**kind, warmup_iterations=1) for kind in kinds).double()
    norms.trained_weight(nets[3][2]).requires_grad_(False)
    twin = copy.deepcopy(nets)
    x = images().double()

    def found(of: nn.ModuleList) -> list[Tensor | None]:
        return gradients(of, sum(net(x).square().sum() for net in of))

    with norms.cached_weights(nets):
        ours = found(nets)
    with parametrize.cached():
        theirs = found(twin)
    assert [one is None for one in ours] == [one is None for one in theirs]
    torch.testing.assert_close(*([one for one in of if one is not None] for of in (ours, theirs)))
    for one, other in zip(vectors(nets), vectors(twin), strict=True):
        torch.testing.assert_close(one[0], other[0])


def test_a_network_without_norms_is_left_alone() -> None:
    net = network()
    with norms.cached_weights(net):
        assert net(images()).shape == (3,)
