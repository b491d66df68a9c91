"""Estimators of a layer's largest singular value, by power iteration.

Each holds its singular vectors as buffers; they are constants to autograd, so that the gradient of
`σ = uᵀWv` with respect to W is `u vᵀ` (Miyato et al. 2018, section 2.1).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gan_lab.kernels import KernelLayout, as_rows
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
    """The norm of a linear map A that the weight makes, by power iteration with a memory.

    Plain power iteration needs hundreds of updates to follow another singular value that has overtaken its
    own, because the share of the new direction in its vector has faded away. Here an iteration takes the most
    stretched combination (Rayleigh-Ritz) of two vectors, the power iterates of both, and the direction in
    which the first one has last moved: the locally optimal block conjugate gradient method on AᵀA (Knyazev
    2001, LOBPCG, without a preconditioner) with one direction. One iteration still is one application of the
    adjoint and one of the map.
    """

    u: Tensor  # [2, *output], unit vectors, the most stretched first
    v: Tensor  # [3, *input], two orthonormal vectors, and the direction

    def _start(self, weight: Tensor, u: Tensor) -> None:
        """Start from random `u`, so that sigma is positive at once."""
        with torch.no_grad():
            apply, adjoint = self.maps(weight)
            v = _unit(_orthonormal(_unit(adjoint(u))))
            self.register_buffer("v", torch.cat([v, torch.zeros_like(v[:1])]))
            self.register_buffer("u", _unit(apply(v)))

    def maps(self, weight: Tensor) -> tuple[Map, Map]:
        """The map A, `[B, *input] -> [B, *output]`, and its adjoint."""
        raise NotImplementedError

    @torch.no_grad()
    def power_iterate(self, weight: Tensor) -> None:
        apply, adjoint = self.maps(weight)
        basis = _orthonormal(torch.cat([self.v, _unit(adjoint(self.u))]))
        images = apply(basis)
        shares = _most_stretched(images)
        direction = torch.cat([torch.zeros_like(shares[:1, :2]), shares[:1, 2:]], 1)
        self.v.copy_(_unit(_combined(torch.cat([shares, direction]), basis)))
        self.u.copy_(_unit(_combined(shares, images)))


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


def _orthonormal(vectors: Tensor) -> Tensor:
    """Unit vectors `[B, ...]` made orthonormal, the first one kept (Gram-Schmidt by a Cholesky factor).

    What hardly differs from those before it becomes short, and not a direction made of rounding errors.
    """
    products = _products(vectors)
    identity = torch.eye(len(products), dtype=products.dtype, device=products.device)
    rounding = 100 * torch.finfo(products.dtype).eps
    lower, _ = torch.linalg.cholesky_ex(products + rounding * identity)
    return _combined(torch.linalg.solve_triangular(lower, identity, upper=False), vectors)


def _most_stretched(images: Tensor) -> Tensor:
    """Of an orthonormal basis with images `[B, ...]`, the two combinations `[2, B]` with the longest ones."""
    products = _products(images)
    first = _principal_axis(products)
    return torch.stack([first, _principal_axis(torch.addr(products, products @ first, first, alpha=-1))])


def _principal_axis(matrix: Tensor) -> Tensor:
    """The unit eigenvector `[B]` of the largest eigenvalue of a positive semidefinite matrix; of 0 it is 0.

    By a high power, because an eigenvalue routine lets the host wait for a GPU, and refuses NaN. Where that
    does not tell two eigenvalues apart, a combination of their vectors does as well.
    """
    tiny = torch.finfo(matrix.dtype).tiny
    power = torch.linalg.matrix_power(matrix / matrix.abs().amax().clamp_min(tiny), 32)
    largest, index = power.diagonal().max(0)
    axis = power.index_select(1, index.view(1)).view(-1) / largest.clamp_min(tiny)
    return axis / torch.linalg.vector_norm(axis).clamp_min(tiny)


def _products(vectors: Tensor) -> Tensor:
    """The inner products `[B, B]` of `[B, ...]`, in single precision at least."""
    matrix = as_rows(vectors)
    return (matrix @ matrix.t()).to(torch.promote_types(matrix.dtype, torch.float32))


def _combined(coefficients: Tensor, vectors: Tensor) -> Tensor:
    """Linear combinations `[C, ...]`, with coefficients `[C, B]`, of `[B, ...]`."""
    combined = coefficients.to(vectors.dtype) @ as_rows(vectors)
    return combined.view(-1, *vectors.movedim(1, -1).shape[1:]).movedim(-1, 1)


def _unit(vectors: Tensor) -> Tensor:
    """Each of `[B, ...]` over its length; what is too short to be squared stays short."""
    length = torch.linalg.vector_norm(vectors, dim=tuple(range(1, vectors.ndim)), keepdim=True)
    return vectors / length.clamp_min(torch.finfo(vectors.dtype).tiny ** 0.5)
