"""PyTorch's convolutions, with gradients by the operations that a CPU computes fastest.

In bfloat16, with a stride and on small maps, oneDNN takes up to twice as long for a weight's gradient as for
the convolution itself, and the same gradient as one product of matrices no longer. Where that is so was
measured (docs/performance.md); elsewhere, and on other devices, these are PyTorch's own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

Pair = tuple[int, ...]  # by spatial axis


class Conv2d(nn.Conv2d):
    """PyTorch's."""

    def forward(self, input: Tensor) -> Tensor:
        """`[B, c_in, H, W]` to `[B, c_out, H', W']`."""
        if not _is_faster_by_product(self, input, widest=6 * self.stride[1]):
            return super().forward(input)
        output = ConvByProduct.apply(input.bfloat16(), self.weight.bfloat16(), self.stride, self.padding)
        return _plus(output, self.bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's, with the bias added separately: its gradient else takes a CPU as long as the weight's."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[B, c_in, H, W]` to `[B, c_out, H', W']`, the one size that the layer's options give."""
        assert output_size is None
        assert not isinstance(self.padding, str)
        options = (self.stride, self.padding, self.output_padding)
        if _is_faster_by_product(self, input, widest=12):
            output = ConvTransposeByProduct.apply(input.bfloat16(), self.weight.bfloat16(), *options)
        else:
            output = F.conv_transpose2d(input, self.weight, None, *options, self.groups, self.dilation)
        return _plus(output, self.bias)


def _is_faster_by_product(layer: Any, input: Tensor, widest: int) -> bool:
    """Whether the weight's gradient is, for a layer that on inputs up to `widest` has shown it."""
    if input.device.type != "cpu" or input.shape[-1] > widest or max(layer.stride) == 1:
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
    pads_with_zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return dtype == torch.bfloat16 and layer.groups == max(layer.dilation) == 1 and pads_with_zeros


def _plus(maps: Tensor, bias: Tensor | None) -> Tensor:
    """`maps` `[B, C, H, W]`, to which `bias` `[C]` is added in place."""
    return maps if bias is None else maps.add_(bias.to(maps.dtype).view(-1, 1, 1))


class ConvByProduct(torch.autograd.Function):
    """`conv2d`, whose weight's gradient is a product of matrices: see `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(input, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = conv2d_input(input.shape, weight, gradient, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(gradient, input, weight.shape, ctx.stride, ctx.padding)
        return of_input, of_weight, None, None


class ConvTransposeByProduct(torch.autograd.Function):
    """`conv_transpose2d`, likewise: the adjoint of a convolution, for which the two maps change places."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, stride: Pair, padding: Pair, output_padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv_transpose2d(input, weight, None, stride, padding, output_padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = F.conv2d(gradient, weight, None, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(input, gradient, weight.shape, ctx.stride, ctx.padding)
        return of_input, of_weight, None, None, None


def weight_gradient(small: Tensor, large: Tensor, shape: torch.Size, stride: Pair, padding: Pair) -> Tensor:
    """`∂⟨small, conv2d(large, W)⟩/∂W`, of W's shape `[c_small, c_large, kh, kw]`, and channels-last.

    The product of `small` as `[c_small, B·H·W]` with the patches of `large` `[B, c_large, H', W']` that its
    pixels see, `[B·H·W, kh·kw·c_large]`.
    """
    c_small, c_large, kh, kw = shape
    (sh, sw), (ph, pw) = stride, padding
    padded = F.pad(large.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph))
    windows = padded.unfold(1, kh, sh).unfold(2, kw, sw)  # [B, H, W, c_large, kh, kw]
    patches = windows.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)
    product = small.permute(0, 2, 3, 1).flatten(0, 2).t() @ patches
    return product.view(c_small, kh, kw, c_large).permute(0, 3, 1, 2)
