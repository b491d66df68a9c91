"""What the pairs share."""

from torch import nn


def channels(count: int, width: float) -> int:
    """The reference's channel count scaled by `width`, at least 1."""
    return max(1, round(count * width))


def batch_norm(count: int) -> nn.BatchNorm2d:
    """Batch norm of `count` channels as the reference has it; PyTorch's momentum 0.1 is its decay of 0.9."""
    return nn.BatchNorm2d(count, momentum=0.1, eps=1e-5)


def batch_norm_of_features(count: int) -> nn.BatchNorm1d:
    """The same of vectors `[B, count]`."""
    return nn.BatchNorm1d(count, momentum=0.1, eps=1e-5)
