"""The CNN pair, layer by layer, against the reference's table."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan_lab.archs.dcgan import Discriminator, Generator
from gan_lab.layers import weighted_layers

BASES = {32: 4, 48: 6, 64: 8}  # m, the side of the smallest map

# (c_in, c_out, kernel, stride) of the reference's convolutions.
GENERATOR = [(512, 256, 4, 2), (256, 128, 4, 2), (128, 64, 4, 2), (64, 3, 3, 1)]
DISCRIMINATOR = [
    (3, 64, 3, 1),
    (64, 64, 4, 2),
    (64, 128, 3, 1),
    (128, 128, 4, 2),
    (128, 256, 3, 1),
    (256, 256, 4, 2),
    (256, 512, 3, 1),
]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("size", "m"), BASES.items())
def test_counts_from_the_table(size: int, m: int) -> None:
    convolutions = sum(c_in * c_out * k * k + c_out for c_in, c_out, k, _ in GENERATOR)
    batch_norms = sum(2 * count for count in (512 * m * m, 256, 128, 64))
    linear = 128 * 512 * m * m + 512 * m * m
    assert parameters(Generator(size)) == linear + batch_norms + convolutions
    convolutions = sum(c_in * c_out * k * k + c_out for c_in, c_out, k, _ in DISCRIMINATOR)
    assert parameters(Discriminator(size)) == convolutions + 512 * m * m + 1


def test_counts_at_32_pixels_are_the_reference_s() -> None:
    assert parameters(Generator(32)) == 3_828_739


@pytest.mark.parametrize(("size", "m"), BASES.items())
def test_layers_in_order(size: int, m: int) -> None:
    for network, table in ((Generator(size), GENERATOR), (Discriminator(size), DISCRIMINATOR)):
        found = [
            (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
            for _, layer in weighted_layers(network)
            if not isinstance(layer, nn.Linear)
        ]
        assert found == table
    assert Generator(size).linear.out_features == 512 * m * m
    assert Discriminator(size).linear.in_features == 512 * m * m


@pytest.mark.parametrize(("size", "m"), BASES.items())
def test_shapes_of_the_maps(size: int, m: int) -> None:
    sides: list[int] = []
    generator, discriminator = Generator(size, width=1 / 64), Discriminator(size, width=1 / 64)
    for network in (generator, discriminator):
        for _, layer in weighted_layers(network):
            if not isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda _, inputs, output: sides.append(output.shape[-1]))
    images = generator(torch.randn(2, 128))
    scores = discriminator(images)
    assert sides[:4] == [2 * m, 4 * m, 8 * m, 8 * m]
    assert sides[4:] == [8 * m, 4 * m, 4 * m, 2 * m, 2 * m, m, m]
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert scores.shape == (2,)


def test_activations_and_batch_norm_are_the_reference_s() -> None:
    norms = [module for module in Generator(32).modules() if isinstance(module, _BatchNorm)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}  # a decay of 0.9
    assert [norm.num_features for norm in norms] == [512 * 16, 256, 128, 64]
    discriminator = Discriminator(32)
    assert not any(isinstance(module, _BatchNorm) for module in discriminator.modules())
    slopes = [module.negative_slope for module in discriminator.modules() if isinstance(module, nn.LeakyReLU)]
    assert slopes == [0.1] * 7


@pytest.mark.parametrize(("size", "m"), BASES.items())
def test_the_first_batch_norm_is_of_features_and_not_of_maps(size: int, m: int) -> None:
    """Over the batch each position of each first map has mean 0 and variance 1, before the ReLU."""
    generator = Generator(size, width=1 / 64)
    maps: list[Tensor] = []
    generator.reshape.register_forward_hook(lambda _, inputs, output: maps.append(output))
    latents = torch.randn(200, 128, generator=torch.Generator().manual_seed(0))
    generator(latents)
    features = generator.linear(latents).double()
    centred = features - features.mean(0)
    expected = (centred / (centred.square().mean(0) + 1e-5).sqrt()).clamp_min(0)
    assert maps[0].shape == (200, 8, m, m)
    torch.testing.assert_close(maps[0].flatten(1).double(), expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="40"):
        Generator(40)
