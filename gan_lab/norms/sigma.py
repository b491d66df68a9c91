"""Estimators of a layer's largest singular value, by power iteration.

Each holds its singular vectors as buffers; they are constants to autograd, so that the gradient of
`σ = uᵀWv` with respect to W is `u vᵀ` (Miyato et al. 2018, section 2.1; Lin et al. 2021, section 2).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_lab.kernels import KernelLayout


class SigmaEstimator(nn.Module):
    """What a norm divides by: a positive scalar function of one layer's weight.

    A subclass is constructed with the layer (a `WEIGHTED` module, its weight initialized), from which it
    copies what it needs.
    """

    def power_iterate(self, weight: Tensor) -> None:
        """Improve the singular vectors in place by one iteration, without a gradient."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """Sigma, a scalar, differentiable in the weight; moves nothing."""
        raise NotImplementedError

    def parts(self, weight: Tensor) -> dict[str, Tensor]:
        """What is logged beside sigma, by name, e.g. the two halves of the bidirectional one."""
        return {}


class _SigmaOfMatrix(SigmaEstimator):
    """The largest singular value of the kernel reshaped to a matrix."""

    u: Tensor  # [rows]
    v: Tensor  # [columns]

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layout = KernelLayout.of(layer)
        assert isinstance(layer.weight, Tensor)
        with torch.no_grad():
            matrix = self.matrix(layer.weight)
            self.register_buffer("u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
            self.register_buffer("v", F.normalize(torch.randn_like(matrix[0]), dim=0))

    def matrix(self, weight: Tensor) -> Tensor:
        """The reshaping, `[rows, columns]`."""
        raise NotImplementedError

    @torch.no_grad()
    def power_iterate(self, weight: Tensor) -> None:
        matrix = self.matrix(weight)
        self.v.copy_(F.normalize(torch.mv(matrix.t(), self.u), dim=0))
        self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        # Clones, because a second forward may move the vectors before the first one's backward.
        return torch.dot(self.u.clone(), torch.mv(self.matrix(weight), self.v.clone()))


class SigmaOut(_SigmaOfMatrix):
    """`σ_out = ‖W reshaped to [c_out, c_in·kh·kw]‖`, the sigma of SN (Miyato et al. 2018)."""

    def matrix(self, weight: Tensor) -> Tensor:
        return self.layout.kernel(weight).flatten(1)


class SigmaIn(_SigmaOfMatrix):
    """`σ_in = ‖W reshaped to [c_in, c_out·kh·kw]‖`, the other half of BSN (Lin et al. 2021, section 5)."""

    def matrix(self, weight: Tensor) -> Tensor:
        return self.layout.kernel(weight).transpose(0, 1).flatten(1)


class SigmaBidirectional(SigmaEstimator):
    """`σ_bi = (σ_out + σ_in) / 2`, the sigma of BSN (Lin et al. 2021, section 5)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.sigma_out = SigmaOut(layer)
        self.sigma_in = SigmaIn(layer)

    def power_iterate(self, weight: Tensor) -> None:
        self.sigma_out.power_iterate(weight)
        self.sigma_in.power_iterate(weight)

    def forward(self, weight: Tensor) -> Tensor:
        return (self.sigma_out(weight) + self.sigma_in(weight)) / 2

    def parts(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sigma_out": self.sigma_out(weight), "sigma_in": self.sigma_in(weight)}
