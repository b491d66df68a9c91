"""A norm of one's own: divide by a bound on the operator's norm that needs no iteration."""

import torch
from torch import Tensor, nn

from gan_lab.layers import KernelLayout
from gan_lab.norms import SigmaEstimator


class SchurBound(SigmaEstimator):
    """`√(r·c)`, r the largest absolute row sum of the layer's matrix and c the largest column sum.

    Schur's test: no matrix has a singular value above it. For a convolution of any stride and padding, a row
    holds at most the taps that lead to one output channel, and a column those that leave one input channel.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layout = KernelLayout.of(layer)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.sqrt(self._row_sum(weight) * self._column_sum(weight))

    def parts(self, weight: Tensor) -> dict[str, Tensor]:
        return {"row_sum": self._row_sum(weight), "column_sum": self._column_sum(weight)}

    def _row_sum(self, weight: Tensor) -> Tensor:
        return self.layout.blocks(weight).abs().sum((2, 3)).max()

    def _column_sum(self, weight: Tensor) -> Tensor:
        return self.layout.blocks(weight).abs().sum((1, 3)).max()
