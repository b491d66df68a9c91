"""Every norm that is more than a weight over a singular value: formula, gradient, invariances, library call.

The formulas are computed a second time by numpy in float64, or by PyTorch's own norm where there is one.
"""

import copy
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_families import FAMILIES, family
from norm_networks import LAYERS, Alone, Together, images, network
from norm_oracles import Array, Case, cases, full_kernel, norm_out
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn.utils import parametrize

from gan_lab import norms
from gan_lab.build import build_networks
from gan_lab.config import compose, load
from gan_lab.errors import UserError
from gan_lab.layers import fans

every_family = pytest.mark.parametrize("name", FAMILIES)
every_case = st.one_of(cases(transposed=False), cases(transposed=True))


def effective(layer: nn.Module, **options: Any) -> Array:
    """The whole kernel `[c_out, c_in, kh, kw]` of a layer under a norm that has converged."""
    layer.double()
    norms.normalize(layer, warmup_iterations=60, **options)
    return full_kernel(layer.eval())


@settings(max_examples=40)
@given(every_case, st.floats(0.3, 3))
def test_frobenius_fixes_the_variance(case: Case, scale: float) -> None:
    layer = case.layer()
    kernel, fan_in = full_kernel(layer), fans(layer)[0]
    found = effective(layer, estimator=norms.SigmaFrobenius, scale=scale)
    np.testing.assert_allclose(found, scale * math.sqrt(len(kernel)) * kernel / np.linalg.norm(kernel))
    # A grouped kernel has entries within its groups only.
    assert (found**2).sum() / layer.weight.numel() == pytest.approx(scale**2 / fan_in)


@settings(max_examples=40)
@given(every_case, st.floats(0.3, 3))
def test_filters_have_one_length(case: Case, scale: float) -> None:
    layer = case.layer()
    kernel = full_kernel(layer)
    lengths = np.linalg.norm(kernel.reshape(len(kernel), -1), axis=1)
    for estimator in (norms.SigmaFilters, norms.SigmaForcedFilters):
        found = effective(copy.deepcopy(layer), estimator=estimator, scale=scale)
        np.testing.assert_allclose(found, scale * kernel / lengths[:, None, None, None])


@settings(max_examples=25)
@given(every_case, st.floats(0.2, 3))
def test_clipping_only_makes_smaller(case: Case, scale: float) -> None:
    layer = case.layer()
    kernel = full_kernel(layer)
    found = effective(layer, estimator=norms.SigmaOut, scale=scale, mode="clip")
    np.testing.assert_allclose(found, kernel / max(1, norm_out(kernel) / scale), rtol=1e-4)


@settings(max_examples=25)
@given(every_case)
def test_the_fans_rule_gives_each_layer_its_scale(case: Case) -> None:
    layer = case.layer()
    kernel = full_kernel(layer)
    found = effective(layer, estimator=norms.SigmaOut, scale=1.7, scale_rule="fan")
    expected = 1.7 * math.sqrt(case.c_out / case.c_in)
    np.testing.assert_allclose(found, expected * kernel / norm_out(kernel), rtol=1e-4)


@settings(max_examples=40)
@given(every_case, st.floats(0.05, 1))
def test_the_stable_rank_is_brought_down(case: Case, c: float) -> None:
    layer = case.layer()
    kernel = full_kernel(layer)
    left, values, right = np.linalg.svd(kernel.reshape(len(kernel), -1), full_matrices=False)
    rows, columns = case.c_out // case.groups, math.prod((case.c_in // case.groups, *case.kernel))
    limit = 1 + c * (case.groups * min(rows, columns) - 1)
    rest, is_close = np.linalg.norm(values[1:]), len(values) > 1 and values[1] > 0.9 * values[0]
    if rest > 0 and limit > 1:
        values[1:] *= min(1, math.sqrt(limit - 1) * values[0] / rest)
    found = effective(layer, estimator=lambda one: norms.SigmaStableRank(one, c))
    expected = (left * (values / values[0]) @ right).reshape(kernel.shape)
    assert norm_out(found) == pytest.approx(1, rel=1e-3)
    assert (found**2).sum() <= limit * (1 + 1e-3)
    if not is_close:  # of two that are alike power iteration leaves open which comes first
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 4), nn.Conv2d(4, 6, 3, groups=2), nn.Conv1d(3, 2, 2), nn.ConvTranspose2d(3, 5, 2)]
)
def test_pytorchs_weight_norm_trains_alike(layer: nn.Module) -> None:
    """Weight, gradients by length and direction, and what Adam makes of them."""
    torch.manual_seed(0)
    nn.init.normal_(layer.weight)
    ours, theirs = copy.deepcopy(layer).double(), copy.deepcopy(layer).double()
    norms.normalize(ours, norms.SigmaFilters, gamma="per_filter", gamma_start="weight")
    axis = int(isinstance(layer, nn.ConvTranspose2d))
    nn.utils.parametrizations.weight_norm(theirs, dim=axis)
    x = torch.randn(2, layer.weight.shape[1 - axis] * getattr(layer, "groups", 1), 4, 4)[
        ..., : layer.weight.ndim - 2, :
    ]
    x = {2: torch.randn(2, 5), 3: torch.randn(2, 3, 6)}.get(layer.weight.ndim, x.new_zeros(())).double()
    if not x.ndim:
        x = torch.randn(2, layer.in_channels, 4, 4).double()
    optimizers = [torch.optim.Adam(one.parameters(), lr=0.1) for one in (ours, theirs)]
    torch.testing.assert_close(ours.weight, layer.weight.double())
    for _ in range(3):
        for one, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            one(x).square().sum().backward()
        (norm,) = ours.parametrizations.weight
        torch.testing.assert_close(norm.scale.grad, theirs.parametrizations.weight.original0.grad.flatten())
        torch.testing.assert_close(
            norms.trained_weight(ours).grad, theirs.parametrizations.weight.original1.grad
        )
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(ours.weight, theirs.weight)


class Forced(nn.Module):
    """EDM2's layer as its formulas say it, for stored filters of length 1."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight.flatten(1), dim=1).view_as(self.weight))
        return F.conv2d(x, F.normalize(self.weight.flatten(1), dim=1).view_as(self.weight))


def test_forced_weight_norm_trains_as_its_formula() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, bias=False).double()
    twin = Forced(layer.weight.detach())
    norms.normalize(layer, norms.SigmaForcedFilters)
    x = torch.randn(4, 3, 6, 6).double()
    optimizers = [torch.optim.Adam(one.parameters(), lr=0.1) for one in (layer, twin)]
    for _ in range(5):
        for one, optimizer in zip((layer, twin), optimizers, strict=True):
            optimizer.zero_grad()
            one(x).relu().sum().backward()
        stored = norms.trained_weight(layer)
        torch.testing.assert_close(stored.flatten(1).norm(dim=1), torch.ones(5).double())
        torch.testing.assert_close(stored.grad, twin.weight.grad)
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(stored, twin.weight)
    before = stored.clone()
    layer.eval()(x)
    assert torch.equal(stored, before)
    with norms.cached_weights(layer.train(), update=False):
        layer(x)
    assert torch.equal(stored, before)


def test_two_passes_with_stored_filters_have_one_backward() -> None:
    net = family("forced weight norm")
    with torch.no_grad():
        norms.trained_weight(net[0]).mul_(3)
    (net(images()) + net(2 * images())).sum().backward()
    assert norms.trained_weight(net[0]).grad.isfinite().all()


INVARIANT = [name for name in FAMILIES if not name.startswith(("clipped", "weight norm"))]


@pytest.mark.parametrize("name", INVARIANT)
def test_the_effective_weight_is_invariant_to_the_scale_of_the_stored_one(name: str) -> None:
    net = family(name).eval()
    expected = net(images())
    with torch.no_grad():
        for layer in LAYERS:
            norms.trained_weight(net.get_submodule(layer)).mul_(7)
    torch.testing.assert_close(net(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["weight norm", "forced weight norm"])
def test_by_filter_each_filters_scale_drops_out(name: str) -> None:
    net = family(name).eval()
    expected = net[0](images())
    with torch.no_grad():
        norms.trained_weight(net[0])[1] *= 5
    torch.testing.assert_close(net[0](images()), expected)
    whole = family("frobenius").eval()
    expected = whole[0](images())
    with torch.no_grad():
        norms.trained_weight(whole[0])[1] *= 5
    assert not torch.allclose(whole[0](images()), expected)


def test_a_weight_that_is_small_enough_is_not_touched_by_clipping() -> None:
    net, plain = family("clipped", scale=100.0), network()
    assert torch.equal(net(images()), plain(images()))
    net(images()).sum().backward()
    plain(images()).sum().backward()
    for layer in LAYERS:
        weight = plain.get_submodule(layer).weight
        torch.testing.assert_close(norms.trained_weight(net.get_submodule(layer)).grad, weight.grad)


@every_family
@pytest.mark.parametrize("way", [Alone, Together])
def test_gradients_equal_finite_differences(name: str, way: type[Alone]) -> None:
    net = family(name, double=True).eval()
    x = images().double()
    named = dict(net.named_parameters())

    def scores(*values: Tensor) -> Tensor:
        parameters = {f"net.{key}": value for key, value in zip(named, values, strict=True)}
        return functional_call(way(net), parameters, x)

    values = tuple(parameter.detach().requires_grad_() for parameter in named.values())
    assert gradcheck(scores, values, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=True)


@every_family
def test_it_trains_as_layer_by_layer(name: str) -> None:
    net, twin = family(name, double=True), family(name, double=True)
    x = images().double()
    for _ in range(3):
        with norms.cached_weights(net):
            scores = net(x) + net(2 * x)
        with parametrize.cached():
            expected = twin(x) + twin(2 * x)
        torch.testing.assert_close(scores, expected)
        for one, its in ((net, scores), (twin, expected)):
            one.zero_grad()
            its.square().sum().backward()
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
        with torch.no_grad():
            for parameter in [*net.parameters(), *twin.parameters()]:
                parameter -= 0.01 * parameter.grad


@every_family
def test_the_library_call_copies_stores_and_removes(name: str) -> None:
    net, plain, other = family(name), network(), family(name, seed=1)
    net(images()).square().sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.sign(parameter.grad))
    other.load_state_dict(net.state_dict())
    twins = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), other]
    expected = net.eval()(images())
    for twin in twins:
        assert torch.equal(twin.eval()(images()), expected)
        assert len(list(twin.parameters())) == len(list(net.parameters()))
    found = norms.sigmas(net)
    assert all(found[f"sigma/{layer}"] > 0 for layer in LAYERS)
    assert all(value.ndim == 0 for value in found.values())
    assert norms.remove(net) == LAYERS
    assert torch.equal(net(images()), expected)
    assert list(net.state_dict()) == list(plain.state_dict())


@every_family
def test_weights_stay_float32_under_autocast(name: str) -> None:
    net, twin = family(name), family(name)
    with torch.autocast("cpu", torch.bfloat16), norms.cached_weights(net):
        scores = net(images())
        weights = [layer.weight for _, layer, _ in norms.normalized_layers(net)]
    scores.float().sum().backward()
    with norms.cached_weights(twin):
        expected = [layer.weight for _, layer, _ in norms.normalized_layers(twin)]
    for one, other in zip(weights, expected, strict=True):
        assert torch.equal(one, other)


def test_gammas_begin_where_they_are_told_to() -> None:
    plain = network()
    for gamma in ("per_layer", "per_filter"):
        for scale_rule in ("constant", "fan"):
            net = network()
            norms.normalize(
                net,
                norms.SigmaIn,
                2.0,
                gamma,
                gamma_start="weight",
                scale_rule=scale_rule,
                warmup_iterations=50,
            )
            for layer in LAYERS:
                torch.testing.assert_close(
                    net.get_submodule(layer).weight,
                    2 * plain.get_submodule(layer).weight,
                    rtol=1e-4,
                    atol=1e-6,
                )
    net = family("filters' gammas", scale=1.3)
    assert all(
        torch.equal(norm.scale, torch.full_like(norm.scale, 1.3))
        for _, _, norm in norms.normalized_layers(net)
    )
    found = norms.sigmas(net)
    assert {key.split("/")[0] for key in found} == {"sigma", "gamma", "gamma_min", "gamma_max"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mode": "cut"}, "mode='cut' is none of divide, clip"),
        ({"scale_rule": "fans"}, "scale_rule='fans' is none of constant, fan"),
        ({"gamma_start": "weight"}, "gamma_start='weight' needs a scale for each layer"),
        ({"gamma_start": "weight", "gamma": "shared"}, "gamma_start='weight' needs a scale for each layer"),
    ],
)
def test_choices_that_make_no_sense_are_refused(options: dict[str, str], word: str) -> None:
    net = network()
    with pytest.raises(ValueError, match=word):
        norms.normalize(net, norms.SigmaOut, **options)
    assert not list(norms.normalized_layers(net))


@pytest.mark.parametrize("c", [0.0, 1.1])
def test_a_stable_rank_out_of_range_is_refused(c: float) -> None:
    with pytest.raises(ValueError, match="layer 0 cannot be normalized: the share c="):
        norms.normalize(network(), lambda layer: norms.SigmaStableRank(layer, c))


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["norm=stable_rank", "norm.estimator.c=2"], "the share c=2 of the largest stable rank"),
        (["norm=stable_rank", "norm.estimator.c=some"], "the share c=some of the largest stable rank"),
        (["norm=gram", "norm.estimator.iterations=1.5"], "iterations=1.5 is no whole number from 0"),
        (["norm=least_of_four", "norm.estimator.iterations=-1"], "iterations=-1 is no whole number from 0"),
        (["norm=weight_norm", "norm.gamma=shared"], "norm.gamma_start=weight begins at each layer's own"),
        (["norm=sn", "norm.mode=cut"], "norm.mode=cut is none of divide, clip"),
        (["norm=sn", "norm.scale_rule=fans"], "norm.scale_rule=fans is none of constant, fan"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_sentence(overrides: list[str], word: str) -> None:
    with pytest.raises(UserError, match=re.escape(word)):
        build_networks(load(compose([*overrides, "arch.width=0.02"])), torch.device("cpu"))
