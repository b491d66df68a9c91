"""Norms of activations in the discriminators: where they stand, what they average, what stays without."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_lab.archs import dcgan, resnet
from gan_lab.archs.common import norm_layer
from gan_lab.layers import weighted_layers
from gan_lab.norms.audit import audit
from gan_lab.norms.bounds import PatchNorms, gradient_bounds
from gan_lab.training.forward import scores_are_per_sample

KINDS = {"layer": nn.GroupNorm, "group": nn.GroupNorm, "instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
BOTH = pytest.mark.parametrize("arch", [dcgan, resnet], ids=["dcgan", "resnet"])


def made(arch: Any, norm: str = "none", size: int = 32, width: float = 1 / 16) -> nn.Module:
    torch.manual_seed(0)
    return arch.Discriminator(size, width, norm=norm)


def standardized(maps: np.ndarray, kind: str, groups: int) -> np.ndarray:
    """`[B, C, H, W]`, each number less the mean of those that it is taken with, over their deviation."""
    count, channels, *side = maps.shape
    grouped = maps.reshape(count, groups, channels // groups, *side)
    axes = {"layer": (1, 2, 3, 4), "group": (2, 3, 4), "instance": (3, 4), "batch": (0, 3, 4)}[kind]
    mean, variance = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(maps.shape)


@EVERY_KIND
@pytest.mark.parametrize(("channels", "groups"), [(512, 32), (64, 32), (16, 8), (6, 1), (4, 2), (1, 1)])
def test_each_is_numpy_s(kind: str, channels: int, groups: int) -> None:
    norm = norm_layer(kind, channels).double()
    maps = torch.randn(3, channels, 4, 5, generator=torch.Generator().manual_seed(0)).double() * 2 + 1
    for parameter in norm.parameters():
        nn.init.uniform_(parameter)
    gain, shift = (parameter.detach().numpy()[:, None, None] for parameter in norm.parameters())
    expected = standardized(maps.numpy(), kind, groups if kind == "group" else 1) * gain + shift
    np.testing.assert_allclose(norm(maps).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="norm=spectral is none of none, layer, group, instance, batch"):
        made(dcgan, "spectral")


def places(network: nn.Module, kind: str) -> list[tuple[str, int, str]]:
    """(the norm, its channels, the module after it) in the order of a pass."""
    seen: list[tuple[str, nn.Module]] = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, *_, name=name: seen.append((name, module)))
    network(torch.zeros(2, 3, 32, 32))
    return [
        (name, len(module.weight), seen[index + 1][0])
        for index, (name, module) in enumerate(seen)
        if isinstance(module, KINDS[kind])
    ]


@EVERY_KIND
def test_in_the_cnn_they_follow_each_convolution_but_the_first(kind: str) -> None:
    widths = [64, 128, 128, 256, 256, 512]
    expected = [(f"norm{k}", width // 16, f"lrelu{k}") for k, width in enumerate(widths, start=1)]
    assert places(made(dcgan, kind), kind) == expected


@EVERY_KIND
def test_in_the_resnet_they_precede_the_blocks_relus_but_the_images(kind: str) -> None:
    network = made(resnet, kind)
    expected = [(f"block{k}.norm{n}", 8, f"block{k}.relu{n}") for k in range(1, 5) for n in (1, 2)][1:]
    assert places(network, kind) == expected


@BOTH
def test_without_one_a_discriminator_is_as_it_was(arch: Any) -> None:
    """Its state, its random draws and its scores; with one, it has a gain and a shift more for each."""
    plain, same = made(arch), made(arch, "none")
    assert not [name for name in plain.state_dict() if "norm" in name]
    assert {name.rsplit(".", 1)[-1] for name in plain.state_dict()} == {"weight", "bias"}
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), same(images))
    added = made(arch, "instance")
    weights = dict(weighted_layers(plain))
    for name, layer in weighted_layers(added):
        assert torch.equal(layer.weight, weights[name].weight)
    extra = added.state_dict().keys() - plain.state_dict().keys()
    kinds = {(layer.split(".")[-1][:4], key) for layer, key in (name.rsplit(".", 1) for name in extra)}
    assert kinds == {("norm", "weight"), ("norm", "bias")}


@BOTH
@EVERY_KIND
@pytest.mark.parametrize("size", [32, 48])
def test_scores_and_slopes_can_be_differentiated_twice(arch: Any, kind: str, size: int) -> None:
    network = made(arch, kind, size)
    images = torch.randn(3, 3, size, size, requires_grad=True)
    assert scores_are_per_sample(network, images.detach()) is (kind != "batch")
    (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@BOTH
@pytest.mark.parametrize("kind", ["layer", "group", "instance"])
def test_bounds_of_normed_activations_hold_and_say_nothing(arch: Any, kind: str) -> None:
    """1/√ε for each norm: true, and a hundred thousand times too large or worse."""
    network = made(arch, kind)
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    with PatchNorms(network) as patches:
        scores = network(images)
    exact = audit(network, images[:1].detach())
    assert exact.lipschitz is not None
    (gradient,) = torch.autograd.grad(scores.sum(), images, retain_graph=True)
    slope = gradient.flatten(1).norm(dim=1).max().item()
    assert 1e5 * slope < exact.lipschitz < float("inf")
    scores.mean().backward()
    bounds = gradient_bounds(network, exact, patches, [torch.full((4,), 0.25)])
    for name, layer in weighted_layers(network):
        assert layer.weight.grad is not None
        assert layer.weight.grad.norm() <= bounds[f"grad_bound/d/{name}"] * (1 + 1e-6)
    assert len(bounds) == len(list(weighted_layers(network)))


def test_bounds_of_batch_norm_in_training_are_refused() -> None:
    network = made(dcgan, "batch")
    with PatchNorms(network) as patches:
        network(torch.randn(2, 3, 32, 32))
    with pytest.raises(ValueError, match="batch norm in training mode"):
        gradient_bounds(network, audit(network, torch.zeros(1, 3, 32, 32)), patches, [torch.ones(2)])


@EVERY_KIND
def test_a_block_with_norms_is_the_sum_of_its_chains(kind: str) -> None:
    torch.manual_seed(0)
    block = resnet.DownBlock(4, resnet.Down(6, 8), norm=kind)
    x = torch.randn(3, 4, 8, 8)
    parts: list[Tensor] = []
    for chain in block.chains():
        part = x
        for module in chain:
            part = module(part)
        parts.append(part)
    torch.testing.assert_close(block(x), sum(parts))


@EVERY_KIND
def test_a_normed_layer_is_blind_to_its_weight_s_scale(kind: str) -> None:
    """So its gradient is orthogonal to the weight, and inverse to its size."""
    torch.manual_seed(0)
    network = made(dcgan, kind).double()
    for module in network.modules():
        if isinstance(module, KINDS[kind]):
            module.eps = 1e-12
    images, layer = torch.randn(3, 3, 32, 32).double(), network.conv2
    torch.nn.init.zeros_(layer.bias)
    scores = network(images)
    (gradient,) = torch.autograd.grad(scores.square().sum(), layer.weight)
    with torch.no_grad():
        layer.weight *= 5
    scaled = network(images)
    (inverse,) = torch.autograd.grad(scaled.square().sum(), layer.weight)
    torch.testing.assert_close(scaled, scores, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(5 * inverse, gradient, rtol=1e-5, atol=1e-8)
    cosine = (gradient * layer.weight).sum() / (gradient.norm() * layer.weight.norm())
    assert abs(cosine) < 1e-6
