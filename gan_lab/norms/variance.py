"""Sigmas that fix how large a weight's entries are, and bound its operator by nothing better.

They are what a norm of the operator is held against: the variance of the weights without the bound. They need
no iteration, and their gradients are exact.
"""

import math

import torch
from torch import Tensor, nn

from gan_lab.layers import KernelLayout
from gan_lab.norms.sigma import SigmaEstimator


class SigmaFrobenius(SigmaEstimator):
    """`‖W‖_F / √c_out`: the entries of `W/σ` have the mean square `1/fan_in`, LeCun's variance, exactly."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer.weight, Tensor)
        self.c_out = KernelLayout.of(layer).kernel(layer.weight).shape[0]

    def forward(self, weight: Tensor) -> Tensor:
        return torch.linalg.vector_norm(weight) / math.sqrt(self.c_out)


class SigmaFilters(SigmaEstimator):
    """`σ_i = ‖W_i‖` `[c_out]`, one for each output filter (weight norm, Salimans & Kingma 2016).

    With a scale s each filter of `s·W_i/σ_i` has the mean square `s²/fan_in`; with `gamma="per_filter"` its
    length is learned.
    """

    per_filter = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layout = KernelLayout.of(layer)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.linalg.vector_norm(self.layout.kernel(weight), dim=(1, 2))


class SigmaForcedFilters(SigmaFilters):
    """`SigmaFilters` of stored filters that are set back to length 1 (Karras et al. 2024, EDM2, section 2.3).

    A step is orthogonal to a filter, so that filters only ever grow, and learn ever more slowly; set back,
    they keep their pace. EDM2's own stored filters have length `√fan_in`, and are moved by a larger rate.
    """

    def settle(self, weight: Tensor) -> None:
        # `.data`: two passes may share one backward, which would refuse a weight that was written to between
        # them; what the second pass changes is rounding, because the effective weight stays.
        lengths = self.layout.per_filter(self(weight.detach()), weight.shape)
        weight.data.div_(lengths)
