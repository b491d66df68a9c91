"""What the norms are measured against: numpy, from the layers' definitions, without the package's code."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """A convolution of two spatial axes and the size of its input; each tuple holds one entry an axis."""

    transposed: bool
    groups: int
    c_in: int
    c_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    output_padding: tuple[int, int]
    size: tuple[int, int]
    seed: int

    def layer(self) -> nn.Conv2d | nn.ConvTranspose2d:
        torch.manual_seed(self.seed)
        options = {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        if self.transposed:
            return nn.ConvTranspose2d(self.c_in, self.c_out, output_padding=self.output_padding, **options)
        return nn.Conv2d(self.c_in, self.c_out, **options)

    def images(self, count: int = 1) -> torch.Tensor:
        return torch.randn(count, self.c_in, *self.size)

    @property
    def reaches(self) -> list[Array]:
        """For each axis a 0/1 array `[kernel, outputs, inputs]`: which tap joins which positions."""
        axes = zip(
            self.size, self.kernel, self.stride, self.padding, self.dilation, self.output_padding, strict=True
        )
        return [reach(self.transposed, *axis) for axis in axes]


def reach(transposed: bool, n: int, k: int, s: int, p: int, d: int, extra: int) -> Array:
    """Tap t joins input i to output o where `i = o·s − p + t·d`, or `o = i·s − p + t·d` if transposed."""
    outputs = (
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + extra
        if transposed
        else (n + 2 * p - d * (k - 1) - 1) // s + 1
    )
    joins = np.zeros((k, outputs, n))
    for t in range(k):
        for o in range(outputs):
            for i in range(n):
                joins[t, o, i] = o == i * s - p + t * d if transposed else i == o * s - p + t * d
    return joins


@st.composite
def cases(draw: Callable, transposed: bool) -> Case:
    """Kernel 1 to 5, stride 1 to 3, padding 0 to 2, dilation 1 and 2, up to 16 channels in up to 4 groups."""

    def pair(least: int, most: int) -> tuple[int, int]:
        return draw(st.integers(least, most)), draw(st.integers(least, most))

    groups = draw(st.sampled_from([1, 1, 2, 4]))
    c_in, c_out = (groups * draw(st.integers(1, 16 // groups)) for _ in range(2))
    kernel, stride, padding, dilation = pair(1, 5), pair(1, 3), pair(0, 2), pair(1, 2)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if transposed:
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        # The smallest input that leaves an output after the padding is cut off.
        least = [
            max(1, -(-(2 * p + 1 - span - e) // s) + 1)
            for s, p, span, e in zip(stride, padding, spans, extra, strict=True)
        ]
    else:
        extra = (0, 0)
        least = [max(1, span - 2 * p) for span, p in zip(spans, padding, strict=True)]
    # Small enough for an SVD in milliseconds, large enough for odd and even sizes with an interior.
    room = 4 if c_in * c_out <= 64 else 2
    size = tuple(n + draw(st.integers(0, room)) for n in least)
    seed = draw(st.integers(0, 2**16))
    return Case(transposed, groups, c_in, c_out, kernel, stride, padding, dilation, extra, size, seed)


def full_kernel(layer: nn.Module) -> Array:
    """`[c_out, c_in, kh, kw]` in float64, zero between the groups."""
    weight = layer.weight.detach().double().numpy()
    transposed, groups = isinstance(layer, nn.ConvTranspose2d), layer.groups
    kernel = np.zeros((layer.out_channels, layer.in_channels, *weight.shape[2:]))
    per_out, per_in = layer.out_channels // groups, layer.in_channels // groups
    for o in range(layer.out_channels):
        for i in range(layer.in_channels):
            if o // per_out == i // per_in:
                kernel[o, i] = weight[i, o % per_out] if transposed else weight[o, i % per_in]
    return kernel


def norm_out(kernel: Array) -> float:
    return float(np.linalg.norm(kernel.reshape(kernel.shape[0], -1), 2))


def norm_in(kernel: Array) -> float:
    return norm_out(kernel.swapaxes(0, 1))


def operator_matrix(kernel: Array, reaches: list[Array]) -> Array:
    """The dense matrix `[c_out·outputs, c_in·inputs]` of a convolution of two axes."""
    matrix = np.einsum("abhw,hoi,wpj->aopbij", kernel, *reaches, optimize=True)
    return matrix.reshape(np.prod(matrix.shape[:3]), -1)
