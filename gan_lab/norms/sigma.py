"""Estimators of a layer's largest singular value, by power iteration.

Each holds its singular vectors as buffers; they are constants to autograd, so that the gradient of
`σ = uᵀWv` with respect to W is `u vᵀ` (Miyato et al. 2018, section 2.1).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gan_lab.kernels import KernelLayout
from gan_lab.norms.operator import LayerOperator

Map = Callable[[Tensor], Tensor]


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


class _LargestSingularValue(SigmaEstimator):
    """The norm of a linear map that the weight makes, by simultaneous power iteration on two vectors.

    One vector alone stays with its own singular value for hundreds of updates after another one has overtaken
    it, because its share in the new direction has faded away. The second vector is where the other one grows;
    which combination of the two is stretched most is decided anew in each iteration (Rayleigh-Ritz).
    """

    u: Tensor  # [2, *output], orthonormal, the most stretched first
    v: Tensor  # [2, *input]

    def _start(self, weight: Tensor, u: Tensor) -> None:
        """Start from random `u`, so that sigma is positive at once."""
        with torch.no_grad():
            apply, adjoint = self.maps(weight)
            v = _orthonormal(adjoint(_orthonormal(u)))
            self.register_buffer("v", v)
            self.register_buffer("u", _orthonormal(apply(v)))

    def maps(self, weight: Tensor) -> tuple[Map, Map]:
        """The map, `[2, *input] -> [2, *output]`, and its adjoint."""
        raise NotImplementedError

    @torch.no_grad()
    def power_iterate(self, weight: Tensor) -> None:
        apply, adjoint = self.maps(weight)
        v = _orthonormal(adjoint(self.u))
        u = apply(v)
        turn = _to_principal_axes(u)
        # Unit vectors, whatever was rounded: then no estimate exceeds the norm.
        self.v.copy_(_unit(_combined(turn, v)))
        self.u.copy_(_unit(_combined(turn, u)))


class _SigmaOfMatrix(_LargestSingularValue):
    """The largest singular value of the kernel reshaped to a matrix.

    The kernel of a grouped convolution has zeros between its groups: the matrix is block-diagonal, and its
    norm the largest of its blocks'.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layout = KernelLayout.of(layer)
        assert isinstance(layer.weight, Tensor)
        groups, rows, _ = self.matrix(layer.weight).shape
        self._start(layer.weight, layer.weight.detach().new_empty(2, groups, rows).normal_())

    def matrix(self, weight: Tensor) -> Tensor:
        """The diagonal blocks, `[groups, rows / groups, columns / groups]`.

        Their entries are in an order that copies no channels-last kernel; it has no part in singular values.
        """
        raise NotImplementedError

    def maps(self, weight: Tensor) -> tuple[Map, Map]:
        matrix = self.matrix(weight)
        return (
            lambda v: torch.bmm(v.transpose(0, 1), matrix.mT).transpose(0, 1),
            lambda u: torch.bmm(u.transpose(0, 1), matrix).transpose(0, 1),
        )

    def forward(self, weight: Tensor) -> Tensor:
        # Clones, because a second forward may move the vectors before the first one's backward.
        u, v = self.u[0].clone(), self.v[0].clone()
        # The matrix on the left, so that its gradient is laid out in memory as it is.
        return (u * torch.bmm(self.matrix(weight), v.unsqueeze(2)).squeeze(2)).sum()


class SigmaOut(_SigmaOfMatrix):
    """`σ_out = ‖W reshaped to [c_out, c_in·kh·kw]‖`, the sigma of SN (Miyato et al. 2018)."""

    def matrix(self, weight: Tensor) -> Tensor:
        return self.layout.blocks(weight).transpose(2, 3).flatten(2)  # [groups, c_out, k·c_in]


class SigmaIn(_SigmaOfMatrix):
    """`σ_in = ‖W reshaped to [c_in, c_out·kh·kw]‖`, the other half of BSN (Lin et al. 2021, section 5)."""

    def matrix(self, weight: Tensor) -> Tensor:
        return self.layout.blocks(weight).transpose(2, 3).flatten(1, 2)  # [groups, c_out·k, c_in], transposed


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


class SigmaOperator(_LargestSingularValue):
    """`σ_op`, the norm of the map `x ↦ layer(x)` at the layer's real input size: the sigma of strict SN.

    Power iteration on the convolution and its exact adjoint (what Lin et al. 2021 call strict SN; the
    operator's norm by power iteration as in Gouk et al. 2018).
    """

    needs_input_size = True

    def __init__(self, layer: nn.Module, input_size: tuple[int, ...]) -> None:
        super().__init__()
        self.input_size = tuple(input_size)
        self.operator = LayerOperator.of(layer, self.input_size)
        assert isinstance(layer.weight, Tensor)
        shape = (2, *self.operator.output_shape[1:])
        self._start(layer.weight, layer.weight.detach().new_empty(shape).normal_())

    def maps(self, weight: Tensor) -> tuple[Map, Map]:
        return partial(self.operator.apply, weight), partial(self.operator.adjoint, weight)

    def forward(self, weight: Tensor) -> Tensor:
        u, v = self.u[:1].clone(), self.v[:1].clone()
        return (u * self.operator.apply(weight, v)).sum()

    def parts(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sigma_op": self(weight)}


def _orthonormal(pair: Tensor) -> Tensor:
    """Two vectors `[2, ...]` made orthonormal, the first one's direction kept (Gram-Schmidt)."""
    (a, b), (_, c) = _products(pair)
    smallest = torch.finfo(pair.dtype).tiny
    along = b / a.clamp_min(smallest)
    # What is left of the second without the first; of parallel ones, rounding errors, which stay small.
    rest = (c - along * b).clamp_min(torch.finfo(pair.dtype).eps * c).clamp_min(smallest).rsqrt()
    first = a.clamp_min(smallest).rsqrt()
    return _combined(torch.stack([first, torch.zeros_like(a), -along * rest, rest]).view(2, 2), pair)


def _to_principal_axes(pair: Tensor) -> Tensor:
    """The rotation `[2, 2]` after which two vectors `[2, ...]` are orthogonal, the longer one first."""
    (a, b), (_, c) = _products(pair)
    angle = torch.atan2(2 * b, a - c) / 2
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, sin, -sin, cos]).view(2, 2)


def _products(pair: Tensor) -> Tensor:
    """The inner products `[2, 2]` of two vectors `[2, ...]`."""
    rows = _rows(pair)
    return rows @ rows.t()


def _combined(coefficients: Tensor, pair: Tensor) -> Tensor:
    """Two linear combinations, with coefficients `[2, 2]`, of two vectors `[2, ...]`."""
    rows = coefficients @ _rows(pair)
    return rows.view(pair.movedim(1, -1).shape).movedim(-1, 1)


def _rows(pair: Tensor) -> Tensor:
    """`[2, C, ...]` as `[2, elements]`, in an order that copies no channels-last tensor."""
    return pair.movedim(1, -1).flatten(1)


def _unit(vectors: Tensor) -> Tensor:
    """Each of `[B, ...]` over its length."""
    length = torch.linalg.vector_norm(vectors, dim=tuple(range(1, vectors.ndim)), keepdim=True)
    return vectors / length.clamp_min(torch.finfo(vectors.dtype).tiny)
