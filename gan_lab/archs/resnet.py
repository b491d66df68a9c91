"""Residual pairs for 32, 48, 64 and 128 pixels.

- 32 and 48: the networks of Miyato et al. 2018 (arXiv 1802.05957, appendix B.4) for CIFAR-10 and STL-10.
- 64: their 128-pixel network with one block less, as in the authors' code (pfnet-research/sngan_projection)
  and in kwotsin/mimicry: generator 1024, 512, 256, 128, 64; discriminator 64 to 1024, each block halving.
- 128: the ImageNet pair of Lin et al. 2021 (arXiv 2009.02773) and its public code. It differs from Miyato's
  in three ways: the generator's first block keeps 1024 channels, the two convolutions of a discriminator
  block are equally wide, and its last block has a convolution on its shortcut.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.init import xavier_uniform_

from gan_lab.archs.common import batch_norm, channels, norm_layer
from gan_lab.archs.initialization import RELU_GAIN, draw


class Down(NamedTuple):
    """One row of a discriminator's table."""

    hidden: int  # channels between the two convolutions
    out: int
    down: bool = True  # halves the side
    project: bool = True  # a 1×1 convolution on the shortcut, else the identity


class Pair(NamedTuple):
    """The tables of a generator and a discriminator at width 1."""

    base: int  # side of the generator's smallest feature map
    first: int  # its channels
    up: tuple[int, ...]  # channels of each generator block
    down: tuple[Down, ...]


PAIRS = {
    32: Pair(
        4, 256, (256, 256, 256),
        (Down(128, 128), Down(128, 128), Down(128, 128, False, False), Down(128, 128, False, False)),
    ),
    48: Pair(
        6, 512, (256, 128, 64),
        (Down(64, 64), Down(64, 128), Down(128, 256), Down(256, 512), Down(512, 1024, down=False)),
    ),
    64: Pair(
        4, 1024, (512, 256, 128, 64),
        (Down(64, 64), Down(64, 128), Down(128, 256), Down(256, 512), Down(512, 1024)),
    ),
    128: Pair(
        4, 1024, (1024, 512, 256, 128, 64),
        (*(Down(count, count) for count in (64, 128, 256, 512, 1024)), Down(1024, 1024, down=False)),
    ),
}  # fmt: skip


def pair(image_size: int) -> Pair:
    """The tables for one image size; raises ValueError where there is none."""
    if image_size not in PAIRS:
        raise ValueError(f"the ResNet has shapes for {tuple(PAIRS)} pixels, not {image_size}")
    return PAIRS[image_size]


class UpBlock(nn.Module):
    """`[B, c_in, H, W]` to `[B, c_out, 2H, 2W]`: BN, ReLU, up, conv, BN, ReLU, conv, plus a 1×1 shortcut."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.bn1 = batch_norm(c_in)
        self.relu1 = nn.ReLU(inplace=True)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.bn2 = batch_norm(c_out)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(self.up(self.relu1(self.bn1(x))))
        residual = self.conv2(self.relu2(self.bn2(residual)))
        # A 1×1 convolution commutes with repeating pixels: before it, it costs a quarter.
        return residual.add_(self.up(self.shortcut(x)))

    def chains(self) -> Sequence[Sequence[nn.Module]]:
        """The parallel chains of modules whose sum the block computes, for Lipschitz bounds."""
        residual = [self.bn1, self.relu1, self.up, self.conv1, self.bn2, self.relu2, self.conv2]
        return residual, [self.shortcut, self.up]


class DownBlock(nn.Module):
    """`[B, c_in, H, W]` to `[B, row.out, H, W]`, or half the side: ReLU, conv, ReLU, conv, pool; a shortcut.

    `norm` puts one of `NORM_LAYERS` before each ReLU. `first` leaves out both before the images.
    """

    def __init__(self, c_in: int, row: Down, first: bool = False, norm: str = "none") -> None:
        super().__init__()
        self.norm1 = norm_layer("none" if first else norm, c_in)
        # Not in place: the shortcut takes the same input.
        self.relu1 = nn.Identity() if first else nn.ReLU()
        self.conv1 = nn.Conv2d(c_in, row.hidden, 3, padding=1)
        self.norm2 = norm_layer(norm, row.hidden)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(row.hidden, row.out, 3, padding=1)
        self.pool = nn.AvgPool2d(2) if row.down else nn.Identity()
        self.shortcut = nn.Conv2d(c_in, row.out, 1) if row.project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(self.relu1(self.norm1(x)))
        residual = self.pool(self.conv2(self.relu2(self.norm2(hidden))))
        # A 1×1 convolution commutes with averaging pixels: after it, it costs a quarter.
        return residual.add_(self.shortcut(self.pool(x)))

    def chains(self) -> Sequence[Sequence[nn.Module]]:
        """The parallel chains of modules whose sum the block computes, for Lipschitz bounds."""
        residual = [self.norm1, self.relu1, self.conv1, self.norm2, self.relu2, self.conv2, self.pool]
        return residual, [self.pool, self.shortcut]


class SumPool(nn.Module):
    """`[B, C, side, side]` to `[B, C]`, the sum over all positions."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3))

    def lipschitz(self) -> float:
        """Its Lipschitz constant √(side²), attained by constant maps."""
        return float(self.side)


class Generator(nn.Sequential):
    """Latents `[B, latent_dim]` to images `[B, 3, image_size, image_size]` in (-1, 1)."""

    def __init__(self, image_size: int, latent_dim: int = 128, width: float = 1.0) -> None:
        table = pair(image_size)
        self.latent_dim = latent_dim
        c_in = channels(table.first, width)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            linear=nn.Linear(latent_dim, c_in * table.base**2),
            reshape=nn.Unflatten(1, (c_in, table.base, table.base)),
        )
        for index, count in enumerate(table.up, start=1):
            c_out = channels(count, width)
            layers[f"block{index}"] = UpBlock(c_in, c_out)
            c_in = c_out
        layers["bn"] = batch_norm(c_in)
        layers["relu"] = nn.ReLU(inplace=True)
        layers["conv"] = nn.Conv2d(c_in, 3, 3, padding=1)
        layers["tanh"] = nn.Tanh()
        super().__init__(layers)


class Discriminator(nn.Sequential):
    """Images `[B, 3, image_size, image_size]` to scores `[B]`.

    The papers' have no norm of activations; `norm` puts one of `NORM_LAYERS` before each ReLU of the residual
    blocks, the images' own excepted (as layer norm in Gulrajani et al. 2017's public code).
    """

    def __init__(self, image_size: int, width: float = 1.0, norm: str = "none") -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        c_in, side = 3, image_size
        for index, row in enumerate(pair(image_size).down, start=1):
            scaled = row._replace(hidden=channels(row.hidden, width), out=channels(row.out, width))
            layers[f"block{index}"] = DownBlock(c_in, scaled, first=index == 1, norm=norm)
            c_in, side = scaled.out, side // 2 if row.down else side
        layers["relu"] = nn.ReLU(inplace=True)
        layers["pool"] = SumPool(side)
        layers["linear"] = nn.Linear(c_in, 1)
        layers["scores"] = nn.Flatten(0)  # [B, 1] to [B]
        super().__init__(layers)


def initialize(network: nn.Module) -> None:
    """Xavier uniform with gain √2 for the two convolutions of a block, gain 1 for all else; zero biases.

    The reference's initialization of these networks (Lin et al. 2021 and Miyato et al. 2018, public code).
    """
    residual = {
        convolution
        for block in network.modules()
        if isinstance(block, (UpBlock, DownBlock))
        for convolution in (block.conv1, block.conv2)
    }
    draw(network, lambda layer, weight: xavier_uniform_(weight, RELU_GAIN if layer in residual else 1.0))
