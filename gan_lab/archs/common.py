"""What the pairs share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def channels(count: int, width: float) -> int:
    """The reference's channel count scaled by `width`, at least 1."""
    return max(1, round(count * width))


def batch_norm(count: int) -> nn.BatchNorm2d:
    """Batch norm of `count` channels as the reference has it; PyTorch's momentum 0.1 is its decay of 0.9."""
    return nn.BatchNorm2d(count, momentum=0.1, eps=1e-5)


class ConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's, with two gradients by operations that a CPU computes faster, of the same result.

    That of the bias, added apart, which within the convolution takes as long as the weight's; and in bfloat16
    that of a weight between small maps, by one product of matrices.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[B, c_in, H, W]` to `[B, c_out, H', W']`, the one size that the layer's options give."""
        assert output_size is None
        assert self.bias is not None
        assert not isinstance(self.padding, str)
        options = (self.stride, self.padding, self.output_padding)
        if self._is_faster_by_product(input):
            output = ConvTransposeByProduct.apply(input.bfloat16(), self.weight.bfloat16(), *options)
        else:
            output = F.conv_transpose2d(input, self.weight, None, *options, self.groups, self.dilation)
        return output.add_(self.bias.to(output.dtype).view(-1, 1, 1))

    def _is_faster_by_product(self, input: Tensor) -> bool:
        if input.device.type != "cpu" or input.shape[-1] >= 16:  # as measured, see docs/performance.md
            return False
        is_cast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if is_cast else input.dtype
        return dtype == torch.bfloat16 and self.groups == 1 and self.dilation == (1, 1)


class ConvTransposeByProduct(torch.autograd.Function):
    """`conv_transpose2d` without groups and dilation, whose weight's gradient is one product of matrices.

    Of the input, `[c_in, B·H·W]`, with the patch of the output's gradient under each of its pixels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        output_padding: tuple[int, ...],
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv_transpose2d(input, weight, None, stride, padding, output_padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (input, weight), (ph, pw) = ctx.saved_tensors, ctx.padding
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = F.conv2d(gradient, weight, None, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            c_in, c_out, kh, kw = weight.shape
            windows = F.pad(gradient.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph))
            for axis, size, step in zip((1, 2), (kh, kw), ctx.stride, strict=True):
                windows = windows.unfold(axis, size, step)  # in the end [B, H, W, c_out, kh, kw]
            patches = windows.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)
            of_weight = input.permute(0, 2, 3, 1).flatten(0, 2).t() @ patches  # [c_in, kh·kw·c_out]
            of_weight = of_weight.view(c_in, kh, kw, c_out).permute(0, 3, 1, 2)
        return of_input, of_weight, None, None, None
