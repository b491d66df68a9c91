"""Initializations: the variance that each aims at, from layers of every kind, and zero biases."""

import math

import pytest
import torch
from torch import nn

from gan_lab.archs import initialization
from gan_lab.archs.dcgan import Discriminator, Generator
from gan_lab.layers import weighted_layers

# (layer, fan-in, fan-out), counted by hand.
LAYERS = [
    (lambda: nn.Conv2d(40, 80, 3), 40 * 9, 80 * 9),
    (lambda: nn.Conv2d(40, 80, 3, groups=4), 10 * 9, 20 * 9),
    (lambda: nn.ConvTranspose2d(40, 80, 4), 40 * 16, 80 * 16),
    (lambda: nn.Linear(300, 100), 300, 100),
]
VARIANCES = {
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "kaiming": lambda fan_in, fan_out: 2 / fan_in,
}


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize(("make", "fan_in", "fan_out"), LAYERS)
def test_variance(name: str, make, fan_in: int, fan_out: int) -> None:
    torch.manual_seed(0)
    layer = make()
    getattr(initialization, name)(nn.Sequential(layer))
    spread = 5 * math.sqrt(2 / layer.weight.numel())  # five deviations of a normal sample's variance
    assert layer.weight.var().item() == pytest.approx(VARIANCES[name](fan_in, fan_out), rel=spread)
    assert layer.bias.abs().max() == 0


def test_the_reference_s_normals() -> None:
    torch.manual_seed(0)
    generator, discriminator = Generator(32), Discriminator(32)
    initialization.normal(generator)
    initialization.normal_truncated_convolutions(discriminator)
    # A normal law cut at two deviations keeps 0.7737 of its variance.
    cut = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
    for name, layer in [*weighted_layers(generator), *weighted_layers(discriminator)]:
        is_cut = isinstance(layer, nn.Conv2d)
        spread = 5 * math.sqrt(2 / layer.weight.numel())
        expected = 0.02**2 * (cut if is_cut else 1)
        assert layer.weight.var().item() == pytest.approx(expected, rel=spread), name
        assert (layer.weight.abs().max() <= 0.04) == is_cut, name
        assert layer.bias.abs().max() == 0, name


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 50, 3), nn.Conv2d(30, 5, 3), nn.ConvTranspose2d(6, 4, 4), nn.Linear(7, 9)], ids=str
)
def test_orthogonal_kernels(layer: nn.Module) -> None:
    initialization.orthogonal(nn.Sequential(layer))
    weight = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
    singular = torch.linalg.svdvals(weight.reshape(len(weight), -1).double())
    torch.testing.assert_close(singular, torch.ones_like(singular), rtol=1e-5, atol=1e-5)
