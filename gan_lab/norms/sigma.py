"""Estimators of a layer's largest singular value, by power iteration.

Each holds its singular vectors as buffers; they are constants to autograd, so that the gradient of
`σ = uᵀWv` with respect to W is `u vᵀ` (Miyato et al. 2018, section 2.1).
"""

import torch
from torch import Tensor, nn

from gan_lab.kernels import KernelLayout
from gan_lab.norms.operator import LayerOperator


class SigmaEstimator(nn.Module):
    """What a norm divides by: a positive scalar function of one layer's weight.

    A subclass is constructed with the layer (linear or convolution, its weight initialized), from which it
    copies what it needs. One that `needs_input_size` gets the spatial sizes of the layer's input too (`()`
    for a linear layer), and keeps them as `input_size`.
    """

    needs_input_size = False
    input_size: tuple[int, ...] | None = None

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
    """The largest singular value of the kernel reshaped to a matrix.

    The kernel of a grouped convolution has zeros between its groups: the matrix is block-diagonal, and its
    norm the largest of its blocks'.
    """

    u: Tensor  # [groups, rows / groups], of length 1 all together
    v: Tensor  # [groups, columns / groups]

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layout = KernelLayout.of(layer)
        assert isinstance(layer.weight, Tensor)
        with torch.no_grad():
            matrix = self.matrix(layer.weight)
            u = _unit(torch.randn_like(matrix[:, :, 0]))
            self.register_buffer("u", u)
            self.register_buffer("v", _unit(_times(matrix.mT, u)))  # so that sigma is positive from the start

    def matrix(self, weight: Tensor) -> Tensor:
        """The diagonal blocks of the reshaping, `[groups, rows / groups, columns / groups]`."""
        raise NotImplementedError

    @torch.no_grad()
    def power_iterate(self, weight: Tensor) -> None:
        matrix = self.matrix(weight)
        self.v.copy_(_unit(_times(matrix.mT, self.u)))
        self.u.copy_(_unit(_times(matrix, self.v)))

    def forward(self, weight: Tensor) -> Tensor:
        # Clones, because a second forward may move the vectors before the first one's backward.
        return (self.u.clone() * _times(self.matrix(weight), self.v.clone())).sum()


class SigmaOut(_SigmaOfMatrix):
    """`σ_out = ‖W reshaped to [c_out, c_in·kh·kw]‖`, the sigma of SN (Miyato et al. 2018)."""

    def matrix(self, weight: Tensor) -> Tensor:
        # Columns by place, then channel: the same singular values, and no copy of a channels-last kernel.
        return self.layout.blocks(weight).transpose(2, 3).flatten(2)


class SigmaIn(_SigmaOfMatrix):
    """`σ_in = ‖W reshaped to [c_in, c_out·kh·kw]‖`, the other half of BSN (Lin et al. 2021, section 5)."""

    def matrix(self, weight: Tensor) -> Tensor:
        return self.layout.blocks(weight).transpose(1, 2).flatten(2)


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


class SigmaOperator(SigmaEstimator):
    """`σ_op`, the norm of the map `x ↦ layer(x)` at the layer's real input size: the sigma of strict SN.

    Power iteration on the convolution and its exact adjoint (what Lin et al. 2021 call strict SN; the
    operator's norm by power iteration as in Gouk et al. 2018).
    """

    needs_input_size = True
    u: Tensor  # [1, c_out, *output sizes]
    v: Tensor  # [1, c_in, *input sizes]

    def __init__(self, layer: nn.Module, input_size: tuple[int, ...]) -> None:
        super().__init__()
        self.input_size = tuple(input_size)
        self.operator = LayerOperator.of(layer, self.input_size)
        assert isinstance(layer.weight, Tensor)
        with torch.no_grad():
            u = _unit(layer.weight.new_empty(self.operator.output_shape).normal_())
            self.register_buffer("u", u)
            self.register_buffer("v", _unit(self.operator.adjoint(layer.weight, u)))

    @torch.no_grad()
    def power_iterate(self, weight: Tensor) -> None:
        self.v.copy_(_unit(self.operator.adjoint(weight, self.u)))
        self.u.copy_(_unit(self.operator.apply(weight, self.v)))

    def forward(self, weight: Tensor) -> Tensor:
        return (self.u.clone() * self.operator.apply(weight, self.v.clone())).sum()

    def parts(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sigma_op": self(weight)}


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Block by block, `[groups, rows, columns] × [groups, columns] -> [groups, rows]`."""
    return torch.bmm(matrix, vector.unsqueeze(2)).squeeze(2)


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector).clamp_min(torch.finfo(vector.dtype).tiny)
