"""A layer's linear map and its exact adjoint, with the layer's own stride, padding, dilation and groups."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from gan_lab.device import full_precision
from gan_lab.layers import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONVOLVE_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_CONVOLVE_ADJOINT = {1: conv1d_input, 2: conv2d_input, 3: conv3d_input}


@dataclass(frozen=True)
class LayerOperator:
    """The linear map `x ↦ layer(x)` without its bias, for one image of the layer's real input size.

    `input_shape` and `output_shape` are `[1, C, *sizes]`, or `[1, features]` for a linear layer.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    transposed: bool
    options: dict[str, Any]  # of the convolution; empty for a linear layer

    @classmethod
    def of(cls, layer: nn.Module, input_size: tuple[int, ...]) -> "LayerOperator":
        """`input_size` holds the spatial sizes of the layer's input, `()` for a linear layer.

        Raises ValueError where the layer does not pad with zeros, or pads its two sides differently.
        """
        if isinstance(layer, nn.Linear):
            return cls((1, layer.in_features), (1, layer.out_features), False, {})
        assert isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS))
        if layer.padding_mode != "zeros":
            raise ValueError(
                f"its operator is defined for zero padding, not padding_mode={layer.padding_mode!r}"
            )
        options: dict[str, Any] = {
            "stride": layer.stride,
            "padding": _symmetric_padding(layer),
            "dilation": layer.dilation,
            "groups": layer.groups,
        }
        transposed = isinstance(layer, TRANSPOSED_CONVOLUTIONS)
        sizes = zip(
            input_size,
            layer.kernel_size,
            *(options[k] for k in ("stride", "padding", "dilation")),
            strict=True,
        )
        if transposed:
            options["output_padding"] = layer.output_padding
            extra = layer.output_padding
            output_size = [
                (n - 1) * s - 2 * p + d * (k - 1) + e + 1
                for (n, k, s, p, d), e in zip(sizes, extra, strict=True)
            ]
        else:
            output_size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
        return cls(
            (1, layer.in_channels, *input_size), (1, layer.out_channels, *output_size), transposed, options
        )

    @full_precision()  # whatever the network's own convolutions are allowed
    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """The map itself, `[B, *input_shape[1:]] -> [B, *output_shape[1:]]`."""
        if not self.options:
            return F.linear(x, weight)
        convolve = _CONVOLVE_TRANSPOSED if self.transposed else _CONVOLVE
        return convolve[x.ndim - 2](x, weight, **self.options)

    @full_precision()
    def adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """Its adjoint, `[B, *output_shape[1:]] -> [B, *input_shape[1:]]`: `<apply x, y> = <x, adjoint y>`."""
        if not self.options:
            return F.linear(y, weight.t())
        if self.transposed:  # the adjoint of an adjoint
            options = {key: value for key, value in self.options.items() if key != "output_padding"}
            x = _CONVOLVE[y.ndim - 2](y, weight, **options)
            # An output padding of a stride or more makes room for positions beyond the input.
            return x[(slice(None), slice(None), *map(slice, self.input_shape[2:]))]
        shape = (y.shape[0], *self.input_shape[1:])
        return _CONVOLVE_ADJOINT[y.ndim - 2](shape, weight, y, **self.options)

    @full_precision()
    def weight_grad(self, weight_shape: torch.Size, x: Tensor, y: Tensor) -> Tensor:
        """`∂⟨apply(weight, x), y⟩/∂weight`, of that shape, in which it is linear."""
        if not self.options:
            return y.t() @ x
        options = {"output_padding": [0] * (x.ndim - 2), **self.options}
        names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
        options["transposed"] = self.transposed
        weight = x.new_empty(1).expand(weight_shape)  # only its shape is read
        arguments = [options[name] for name in names]
        _, slope, _ = torch.ops.aten.convolution_backward(
            y, x, weight, None, *arguments, [False, True, False]
        )
        return slope


def _symmetric_padding(layer: Any) -> tuple[int, ...]:
    """The zeros added on each side, by spatial axis."""
    padding = layer.padding
    if padding == "valid":
        return (0,) * len(layer.kernel_size)
    if padding == "same":
        both = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(total % 2 for total in both):
            raise ValueError(
                "its operator is defined for equal padding on both sides: 'same' pads unequally here"
            )
        return tuple(total // 2 for total in both)
    return tuple(padding)


@torch.no_grad()
def dense(operator: LayerOperator, weight: Tensor) -> Tensor:
    """The operator's matrix `[outputs, inputs]`, column by column: for small sizes."""
    inputs = math.prod(operator.input_shape)
    basis = torch.eye(inputs, dtype=weight.dtype, device=weight.device).reshape(
        inputs, *operator.input_shape[1:]
    )
    return operator.apply(weight, basis).flatten(1).t()
