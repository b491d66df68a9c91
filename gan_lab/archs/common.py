"""What the pairs share."""

import math
from collections.abc import Callable, Mapping

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


# Each has a learned gain and shift for each channel; they differ in what a mean and a variance are of.
NORM_LAYERS: Mapping[str, Callable[[int], nn.Module]] = {
    "none": lambda count: nn.Identity(),
    "layer": lambda count: nn.GroupNorm(1, count),  # an image's maps all together (Ba et al. 2016)
    "group": lambda count: nn.GroupNorm(_groups(count), count),  # groups of its maps (Wu & He 2018)
    "instance": lambda count: nn.InstanceNorm2d(count, affine=True),  # each map (Ulyanov et al. 2016)
    "batch": batch_norm,  # one channel's maps of the whole batch (Ioffe & Szegedy 2015)
}


def _groups(count: int) -> int:
    """Wu & He's 32, or as many as a narrower layer has with two channels each: one would be instance norm."""
    return math.gcd(32, count // 2, count)


def norm_layer(kind: str, count: int) -> nn.Module:
    """A norm of activations `[B, count, H, W]`; raises ValueError for a kind that is none of NORM_LAYERS."""
    if kind not in NORM_LAYERS:
        raise ValueError(f"norm={kind} is none of {', '.join(NORM_LAYERS)}")
    return NORM_LAYERS[kind](count)
