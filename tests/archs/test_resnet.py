"""The residual pairs against counts by hand, the formula written out, and the reference's variances."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_lab.archs.resnet import (
    PAIRS,
    Discriminator,
    Down,
    DownBlock,
    Generator,
    SumPool,
    UpBlock,
    initialize,
)
from gan_lab.layers import weighted_layers

SIZES = (32, 48, 64, 128)


def conv(c_in: int, c_out: int, side: int) -> int:
    """Parameters of a convolution with bias, by hand."""
    return c_out * c_in * side**2 + c_out


def up(c_in: int, c_out: int) -> int:
    """BN, 3×3, BN, 3×3, 1×1."""
    return 2 * c_in + conv(c_in, c_out, 3) + 2 * c_out + conv(c_out, c_out, 3) + conv(c_in, c_out, 1)


def down(c_in: int, hidden: int, c_out: int, project: bool = True) -> int:
    """3×3, 3×3, and 1×1 where the shortcut has one."""
    return conv(c_in, hidden, 3) + conv(hidden, c_out, 3) + (conv(c_in, c_out, 1) if project else 0)


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


# Layer by layer from the tables of Miyato et al. 2018 (32, 48, 64) and of the reference (128).
GENERATOR_COUNTS = {
    32: linear(128, 256 * 16) + 3 * up(256, 256) + 2 * 256 + conv(256, 3, 3),
    48: linear(128, 512 * 36) + up(512, 256) + up(256, 128) + up(128, 64) + 2 * 64 + conv(64, 3, 3),
    64: linear(128, 1024 * 16)
    + up(1024, 512)
    + up(512, 256)
    + up(256, 128)
    + up(128, 64)
    + 2 * 64
    + conv(64, 3, 3),
    128: linear(128, 1024 * 16)
    + up(1024, 1024)
    + up(1024, 512)
    + up(512, 256)
    + up(256, 128)
    + up(128, 64)
    + 2 * 64
    + conv(64, 3, 3),
}
DISCRIMINATOR_COUNTS = {
    32: down(3, 128, 128) + down(128, 128, 128) + 2 * down(128, 128, 128, project=False) + linear(128, 1),
    48: down(3, 64, 64)
    + down(64, 64, 128)
    + down(128, 128, 256)
    + down(256, 256, 512)
    + down(512, 512, 1024)
    + linear(1024, 1),
    64: down(3, 64, 64)
    + down(64, 64, 128)
    + down(128, 128, 256)
    + down(256, 256, 512)
    + down(512, 512, 1024)
    + linear(1024, 1),
    128: down(3, 64, 64)
    + down(64, 128, 128)
    + down(128, 256, 256)
    + down(256, 512, 512)
    + down(512, 1024, 1024)
    + down(1024, 1024, 1024)
    + linear(1024, 1),
}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_32_pixel_pair_has_the_published_counts() -> None:
    assert count(Generator(32)) == GENERATOR_COUNTS[32] == 4_276_739
    assert count(Discriminator(32)) == DISCRIMINATOR_COUNTS[32] == 1_053_825


@pytest.mark.parametrize("size", SIZES)
def test_counts_at_full_width(size: int) -> None:
    with torch.device("meta"):
        assert count(Generator(size)) == GENERATOR_COUNTS[size]
        assert count(Discriminator(size)) == DISCRIMINATOR_COUNTS[size]


@pytest.mark.parametrize("size", SIZES)
def test_shapes_and_range(size: int) -> None:
    images = Generator(size, latent_dim=7, width=1 / 64)(torch.randn(3, 7))
    assert images.shape == (3, 3, size, size)
    assert images.abs().max() <= 1
    assert Discriminator(size, width=1 / 64)(images).shape == (3,)


@pytest.mark.parametrize("size", SIZES)
def test_sides_of_the_feature_maps(size: int) -> None:
    """Generator blocks double the side up to the image's; the discriminator pools what its table leaves."""
    sides: dict[str, int] = {}

    def record(name: str):
        return lambda module, inputs, output: sides.__setitem__(name, output.shape[-1])

    generator, discriminator = Generator(size, width=1 / 64), Discriminator(size, width=1 / 64)
    for network in (generator, discriminator):
        for name, block in network.named_children():
            if isinstance(block, UpBlock | DownBlock):
                block.register_forward_hook(record(f"{type(block).__name__} {name}"))
    discriminator(generator(torch.randn(2, 128)))
    base = {32: 4, 48: 6, 64: 4, 128: 4}[size]
    ups = [side for name, side in sides.items() if name.startswith("Up")]
    assert ups == [base * 2**n for n in range(1, len(ups) + 1)]
    assert ups[-1] == size
    downs = [side for name, side in sides.items() if name.startswith("Down")]
    expected = {
        32: [16, 8, 8, 8],
        48: [24, 12, 6, 3, 3],
        64: [32, 16, 8, 4, 2],
        128: [64, 32, 16, 8, 4, 4],
    }
    assert downs == expected[size]
    assert discriminator.pool.side == downs[-1]


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="40"):
        Generator(40)
    with pytest.raises(ValueError, match="40"):
        Discriminator(40)


def test_width_scales_every_layer() -> None:
    wide, narrow = Discriminator(32), Discriminator(32, width=0.5)
    for (name, a), (_, b) in zip(weighted_layers(wide), weighted_layers(narrow), strict=True):
        if name != "linear":
            assert b.weight.shape[0] * 2 == a.weight.shape[0], name
    assert [name for name, _ in weighted_layers(Generator(32, width=0.1))][:4] == [
        "linear",
        "block1.conv1",
        "block1.conv2",
        "block1.shortcut",
    ]


def test_an_up_block_is_the_published_formula() -> None:
    """Up-sampling before the 1×1 shortcut, as published; the block does it after, which is the same map."""
    block = UpBlock(5, 4).double().eval()
    block.bn1.running_mean.normal_()
    block.bn2.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 5, 6, 6, dtype=torch.double)

    def doubled(maps: Tensor) -> Tensor:
        return maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    h = doubled(block.bn1(x).clamp(min=0))
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    h = F.conv2d(block.bn2(h).clamp(min=0), block.conv2.weight, block.conv2.bias, padding=1)
    expected = h + F.conv2d(doubled(x), block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "row", [Down(3, 5), Down(4, 5, down=False), Down(3, 4, down=False, project=False)], ids=str
)
def test_a_down_block_is_the_published_formula(row: Down, first: bool) -> None:
    """Convolving the shortcut before the pooling, as published, is the same map; the input stays intact."""
    block = DownBlock(4, row, first).double()
    x = torch.randn(2, 4, 6, 6, dtype=torch.double)
    given = x.clone()
    h = given if first else given.clamp(min=0)
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1).clamp(min=0)
    h = F.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1)
    shortcut = F.conv2d(given, block.shortcut.weight, block.shortcut.bias) if row.project else given
    if row.down:
        h, shortcut = F.avg_pool2d(h, 2), F.avg_pool2d(shortcut, 2)
    torch.testing.assert_close(block(x), h + shortcut)
    assert torch.equal(x, given)


@pytest.mark.parametrize(
    "block", [UpBlock(3, 5).eval(), DownBlock(3, Down(4, 5)), DownBlock(3, Down(4, 3, False, False))]
)
def test_a_block_is_the_sum_of_its_chains(block: UpBlock | DownBlock) -> None:
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(x), sum(nn.Sequential(*chain)(x) for chain in block.chains()))


def test_the_lipschitz_constant_of_sum_pooling_is_attained() -> None:
    pool = SumPool(6)
    constant = torch.full((1, 3, 6, 6), 0.3)
    assert pool(constant).norm() / constant.norm() == pytest.approx(pool.lipschitz())
    noise = torch.randn(1, 3, 6, 6)
    assert pool(noise).norm() / noise.norm() < pool.lipschitz()


def test_initialization_has_the_reference_variances() -> None:
    """Xavier uniform: bounded by √3 deviations, variance gain²·2/(fan_in + fan_out)."""
    torch.manual_seed(0)
    for network in (Generator(32), Discriminator(32)):
        initialize(network)
        for name, layer in weighted_layers(network):
            c_out, c_in = layer.weight.shape[:2]
            k = layer.weight[0, 0].numel()
            gain = 2.0 if "block" in name and "conv" in name else 1.0
            variance = gain * 2 / ((c_in + c_out) * k)
            assert layer.weight.abs().max() <= math.sqrt(3 * variance) * (1 + 1e-6), name
            deviation = 4 / math.sqrt(
                layer.weight.numel()
            )  # more than a sample variance of a uniform law strays
            assert layer.weight.var().item() == pytest.approx(variance, rel=deviation), name
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias)), name


def test_the_table_has_no_identity_shortcut_between_different_shapes() -> None:
    for pair in PAIRS.values():
        c_in = 3
        for row in pair.down:
            assert row.project or (not row.down and c_in == row.out)
            c_in = row.out


@pytest.mark.parametrize("size", [32, 48])
def test_double_backward_through_the_activations(size: int) -> None:
    """The gradient of a squared slope, which gradient penalties need, against a finite difference."""
    torch.manual_seed(0)
    network = Discriminator(size, width=1 / 32).double()
    weight = network.block2.conv1.weight
    images = torch.randn(2, 3, size, size, dtype=torch.double)

    def squared_slope() -> Tensor:
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    (exact,) = torch.autograd.grad(squared_slope(), weight)
    direction, step = torch.randn_like(weight), 1e-6
    with torch.no_grad():
        weight += step * direction
        above = squared_slope_value(network, images)
        weight -= 2 * step * direction
        below = squared_slope_value(network, images)
    assert (exact * direction).sum().item() == pytest.approx((above - below) / (2 * step), rel=1e-4)


def squared_slope_value(network: nn.Module, images: Tensor) -> float:
    with torch.enable_grad():
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(x).sum(), x)
    return gradient.square().sum().item()
