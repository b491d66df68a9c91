"""Stable rank normalization: a first singular value of 1, and a bound on all the others together."""

import math

import torch
from torch import Tensor, nn

from gan_lab.norms.sigma import LargestSingularValue, SigmaEstimator, SigmaOut


class SigmaStableRank(SigmaEstimator):
    """SN of a weight whose stable rank `‖W‖_F²/σ_out²` is first brought down to `1 + c·(R − 1)`.

    R is the largest that the kernel reshaped to `[c_out, c_in·kh·kw]` can have, so that `c` = 1 is SN. The
    matrix's first singular pair is kept, and the rest shrunk where it is too large (Sanyal et al. 2020). The
    singular vectors are constants to autograd.
    """

    def __init__(self, layer: nn.Module, c: float = 0.3) -> None:
        super().__init__()
        if not isinstance(c, int | float) or not 0 < c <= 1:
            raise ValueError(f"the share c={c} of the largest stable rank lies above 0 and is at most 1")
        self.sigma_out = SigmaOut(layer)
        assert isinstance(layer.weight, Tensor)
        groups, rows, columns = self.sigma_out.matrix(layer.weight).shape
        self.stable_rank = 1 + c * (groups * min(rows, columns) - 1)

    def singular_values(self) -> tuple[LargestSingularValue, ...]:
        return (self.sigma_out,)

    def prepared(self, weight: Tensor) -> Tensor:
        if self.stable_rank == 1:  # one row or column has no rest
            return weight
        first, rest, room = self._split(weight)
        return first + rest * (room / torch.maximum(torch.linalg.vector_norm(rest), room))

    def _split(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The weight's first singular pair, the rest, and how long the rest may be."""
        sigma = self.sigma_out(weight)
        first = sigma * self.sigma_out.weight_grad(*self.sigma_out.pair())
        return first, weight - first, math.sqrt(self.stable_rank - 1) * sigma

    def shrinkage(self, weight: Tensor) -> float:
        """What the rest is multiplied with, at most 1."""
        if self.stable_rank == 1:
            return 1.0
        _, rest, room = self._split(weight)
        return min(1.0, (room / torch.linalg.vector_norm(rest)).item())
