"""What the pairs share."""

import torch.nn.functional as F
from torch import Tensor, nn


def channels(count: int, width: float) -> int:
    """The reference's channel count scaled by `width`, at least 1."""
    return max(1, round(count * width))


def batch_norm(count: int) -> nn.BatchNorm2d:
    """Batch norm of `count` channels as the reference has it; PyTorch's momentum 0.1 is its decay of 0.9."""
    return nn.BatchNorm2d(count, momentum=0.1, eps=1e-5)


class ConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's, with the bias added apart: whose gradient else takes a CPU as long as the weight's."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[B, c_in, H, W]` to `[B, c_out, H', W']`, the one size that the layer's options give."""
        assert output_size is None
        assert self.bias is not None
        assert not isinstance(self.padding, str)
        options = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        output = F.conv_transpose2d(input, self.weight, None, *options)
        return output.add_(self.bias.to(output.dtype).view(-1, 1, 1))
