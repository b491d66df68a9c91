"""Weight initializations: each draws every linear and convolution weight of a network, and zeroes the biases.

They draw from PyTorch's global random state.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_lab.layers import KernelLayout, weighted_layers

RELU_GAIN = math.sqrt(2)  # He et al. 2015, equation 10


def target_variances(fan_in: int, fan_out: int) -> dict[str, float]:
    """The weight variance that each initialization aims at (LeCun 1998, Xavier 2010, Kaiming 2015)."""
    return {
        "lecun": 1 / fan_in,
        "xavier": 2 / (fan_in + fan_out),
        "kaiming": RELU_GAIN**2 / fan_in,
    }


def draw(network: nn.Module, rule: Callable[[nn.Module, Tensor], object]) -> None:
    """Let `rule(layer, weight)` fill each linear and convolution weight in place; zero the biases."""
    with torch.no_grad():
        for _, layer in weighted_layers(network):
            assert isinstance(layer.weight, Tensor)
            rule(layer, layer.weight)
            if isinstance(layer.bias, Tensor):
                layer.bias.zero_()


def _with_target_variance(network: nn.Module, name: str) -> None:
    def rule(layer: nn.Module, weight: Tensor) -> None:
        weight.normal_(0, math.sqrt(target_variances(*KernelLayout.of(layer).fans(weight))[name]))

    draw(network, rule)


def normal(network: nn.Module, std: float = 0.02) -> None:
    """N(0, std): the reference's generator."""
    draw(network, lambda layer, weight: weight.normal_(0, std))


def normal_truncated_convolutions(network: nn.Module, std: float = 0.02) -> None:
    """N(0, std), cut off at two deviations for convolutions but not for linear layers: its discriminator."""

    def rule(layer: nn.Module, weight: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            weight.normal_(0, std)
        else:
            nn.init.trunc_normal_(weight, 0, std, -2 * std, 2 * std)

    draw(network, rule)


def lecun(network: nn.Module) -> None:
    """N(0, 1/fan_in)."""
    _with_target_variance(network, "lecun")


def xavier(network: nn.Module) -> None:
    """N(0, 2/(fan_in + fan_out))."""
    _with_target_variance(network, "xavier")


def kaiming(network: nn.Module) -> None:
    """N(0, 2/fan_in), the ReLU gain √2."""
    _with_target_variance(network, "kaiming")


def orthogonal(network: nn.Module) -> None:
    """Orthogonal rows or columns of the kernel reshaped to `[c_out, c_in·kh·kw]`."""

    def rule(layer: nn.Module, weight: Tensor) -> None:
        layout = KernelLayout.of(layer)
        if layout.transposed and layout.groups > 1:
            raise ValueError("orthogonal initialization has no rule for grouped transposed convolutions")
        matrix = torch.empty_like(layout.kernel(weight).flatten(1))
        nn.init.orthogonal_(matrix)
        if layout.transposed:  # [c_out, c_in·k] back to [c_in, c_out, kh, kw]
            matrix = matrix.reshape(weight.shape[1], weight.shape[0], -1).transpose(0, 1)
        weight.copy_(matrix.reshape(weight.shape))

    draw(network, rule)
