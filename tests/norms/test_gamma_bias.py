"""A learned scale that multiplies the biases too."""

import copy
import pickle

import pytest
import torch
from norm_networks import LAYERS, images, network
from torch import nn
from torch.nn.utils import parametrize

from gan_lab import norms
from gan_lab.config import compose, load
from gan_lab.errors import UserError


def scaled(gamma: str, scale: float = 1.3) -> nn.Sequential:
    net = network()
    for layer in net:
        if getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias)
    norms.normalize(net, norms.SigmaOut, scale, gamma, gamma_bias=True)
    return net


every_gamma = pytest.mark.parametrize("gamma", ["shared", "per_layer"])


@every_gamma
def test_gamma_scales_what_the_layer_adds_as_well(gamma: str) -> None:
    """A whole layer, weight and bias, is γ times the layer with γ = 1; layers without a bias have none."""
    net, unscaled = scaled(gamma, 1.3).eval(), scaled(gamma, 1.0).eval()
    x = images()
    torch.testing.assert_close(net[0](x), 1.3 * unscaled[0](x))
    assert net[2].bias is None
    assert [parametrize.is_parametrized(net.get_submodule(name), "bias") for name in LAYERS] == [1, 0, 1, 1]


@every_gamma
def test_the_gradient_by_gamma_is_that_of_the_scaled_layer(gamma: str) -> None:
    """d/dγ of γ·f is f: by finite differences of γ in float64."""
    net = scaled(gamma).double().eval()
    x = images().double()
    norm = next(iter(norms.normalized_layers(net)))[2]
    net(x).sum().backward()
    found = norm.scale.grad.item()
    scores = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            norm.scale += step
            scores.append(net(x).sum().item())
    assert found == pytest.approx((scores[0] - scores[1]) / 2e-5, rel=1e-6)


@every_gamma
@pytest.mark.parametrize("together", [True, False])
def test_weights_made_together_train_alike(gamma: str, together: bool) -> None:
    net, twin = scaled(gamma).double(), scaled(gamma).double()
    with norms.cached_weights(net) if together else parametrize.cached():
        scores = net(images().double())
    scores.square().sum().backward()
    twin(images().double()).square().sum().backward()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@every_gamma
def test_it_is_copied_stored_and_taken_off(gamma: str) -> None:
    net, plain, other = scaled(gamma).eval(), network(), scaled(gamma, 1.0).eval()
    expected = net(images())
    other.load_state_dict(net.state_dict())
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), other):
        assert torch.equal(twin(images()), expected)
        assert not {id(p) for p in net.parameters()} & {id(p) for p in twin.parameters()}
        assert len(list(twin.parameters())) == len(list(net.parameters()))
    assert norms.remove(net) == LAYERS
    assert torch.equal(net(images()), expected)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_without_a_learned_scale_it_is_refused() -> None:
    with pytest.raises(ValueError, match="gamma_bias=True needs a scale that is learned"):
        norms.normalize(network(), norms.SigmaOut, gamma_bias=True)
    with pytest.raises(UserError, match=r"norm\.gamma_bias=true needs a scale that is learned: set"):
        load(compose(["norm=sn", "norm.gamma_bias=true"]))


def test_a_parametrized_bias_is_refused() -> None:
    net = network()
    parametrize.register_parametrization(net[4], "bias", nn.Identity())
    with pytest.raises(ValueError, match="layer 4 has a parametrized bias already: remove it first"):
        norms.normalize(net, norms.SigmaOut, gamma="shared", gamma_bias=True)
    assert not parametrize.is_parametrized(net[0])
