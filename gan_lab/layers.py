"""The layout of convolution kernels and linear weights, written down once.

The paper's formulas speak of a kernel `[c_out, c_in, kh, kw]`. PyTorch keeps that order for
convolutions, swaps it for transposed ones, and drops the last two axes for linear layers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)


def weighted_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear, convolution and transposed convolution layers of a network, with their dotted names."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, WEIGHTED))


@dataclass(frozen=True)
class KernelLayout:
    """How a layer's weight maps to the paper's `[c_out, c_in, kh, kw]`."""

    transposed: bool
    groups: int

    @classmethod
    def of(cls, layer: nn.Module) -> "KernelLayout":
        return cls(isinstance(layer, TRANSPOSED_CONVOLUTIONS), getattr(layer, "groups", 1))

    def blocks(self, weight: Tensor) -> Tensor:
        """The kernel of each group, `[groups, c_out / groups, c_in / groups, k]`, k = kh·kw (1 if linear).

        The whole kernel `[c_out, c_in, k]` has these blocks on its diagonal, and zeros between the groups. A
        view where possible.
        """
        blocks = weight.reshape(self.groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
        return blocks.transpose(1, 2) if self.transposed else blocks

    def block_shape(self, shape: torch.Size) -> tuple[int, int, int, int]:
        """The shape of `blocks` of a weight of this shape."""
        groups, first, second = self.groups, shape[0] // self.groups, shape[1]
        c_out, c_in = (second, first) if self.transposed else (first, second)
        return groups, c_out, c_in, math.prod(shape[2:])

    def weight(self, blocks: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `blocks`, a weight of this shape."""
        return (blocks.transpose(1, 2) if self.transposed else blocks).reshape(shape)

    def kernel(self, weight: Tensor) -> Tensor:
        """The weight as `[c_out, c_in / groups, k]`: the blocks below each other."""
        return self.blocks(weight).flatten(0, 1)

    def of_kernel(self, kernel: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `kernel`, a weight of this shape."""
        groups, c_out, c_in, k = self.block_shape(shape)
        return self.weight(kernel.reshape(groups, c_out, c_in, k), shape)

    def per_filter(self, values: Tensor, shape: torch.Size) -> Tensor:
        """One number for each output filter, `[c_out]`, as it multiplies a weight of this shape."""
        ones = (1,) * (len(shape) - 2)
        if not self.transposed:
            return values.view(-1, 1, *ones)
        of_groups = values.view(self.groups, 1, -1).expand(-1, shape[0] // self.groups, -1)
        return of_groups.reshape(shape[0], shape[1], *ones)

    def fans(self, weight: Tensor) -> tuple[int, int]:
        """(fan-in, fan-out): the inputs that feed one output, the outputs that one input feeds.

        `c_in·kh·kw` and `c_out·kh·kw` with the channels of one group; strides are not counted.
        """
        _, c_out, c_in, k = self.blocks(weight).shape
        return c_in * k, c_out * k


def fans(layer: nn.Module) -> tuple[int, int]:
    """(fan-in, fan-out) of a linear or convolution layer; see `KernelLayout.fans`."""
    assert isinstance(layer.weight, Tensor)
    return KernelLayout.of(layer).fans(layer.weight)


def as_rows(tensors: Tensor) -> Tensor:
    """`[B, C, ...]` as `[B, elements]`, in an order that copies no channels-last tensor."""
    return tensors.movedim(1, -1).flatten(1)
