"""Power iteration with a memory, of any number of linear maps together.

Plain power iteration needs hundreds of updates to follow another singular value that has overtaken its own,
because the share of the new direction in its vector has faded away. Here an iteration takes the most
stretched combinations (Rayleigh-Ritz) of two vectors, the power iterates of both, and the direction in
which the first one has last moved: the locally optimal block conjugate gradient method on AᵀA (Knyazev
2001, LOBPCG, without a preconditioner) with one direction. One iteration still is one application of the
adjoint and one of the map.

What it computes next to these is tiny, and costs by the number of its operations: so the layers of a network
take it together.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gan_lab.device import full_precision
from gan_lab.layers import as_rows


class LinearMap(Protocol):
    """A linear map A, made by a weight, with what power iteration remembers of it."""

    u: Tensor  # [2, *output], unit vectors, the most stretched first
    v: Tensor  # [3, *input], two orthonormal vectors, and the direction in which the first one has moved

    def image(self, weight: Tensor, v: Tensor) -> Tensor:
        """A, `[B, *input] -> [B, *output]`."""

    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        """Aᵀ, `[B, *output] -> [B, *input]`."""


class Iterates(NamedTuple):
    """What an iteration of L maps has found."""

    sigmas: Tensor  # [L], how much each map stretches its first vector
    u: list[Tensor]  # of each map, as it holds them now, in memory of their own
    v: list[Tensor]


@torch.no_grad()
@full_precision()  # whatever the network's own convolutions are allowed
def power_iterate(maps: Sequence[tuple[LinearMap, Tensor]]) -> Iterates:
    """One iteration of each map with its weight, in place.

    At least one map; all weights on one device and of one precision.
    """
    vectors = [torch.cat([a.v, a.adjoint(weight, a.u)]) for a, weight in maps]
    bases = _combined(_orthonormal(_products(vectors)), vectors)
    images = [a.image(weight, basis) for (a, weight), basis in zip(maps, bases, strict=True)]
    stretches = _products(images)

    axes = _principal_axes(stretches)
    axes = torch.cat([axes, axes[:, :1]], 1)
    axes[:, 2, :2].zero_()  # of the first one's combination only what it has not been made of before
    axes, _ = _unit(axes, _products(bases))
    shares, sigmas = _unit(axes[:, :2], stretches)
    found = Iterates(sigmas[:, 0], _combined(shares, images), _combined(axes, bases))
    torch._foreach_copy_([a.u for a, _ in maps] + [a.v for a, _ in maps], found.u + found.v)
    return found


def start(a: LinearMap, weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(u, v) to begin with, from a random `u` `[2, *output]`, so that the map stretches them at once."""
    with torch.no_grad():
        v = [a.adjoint(weight, u)]
        (v1,) = _combined(_orthonormal(_products(v)), v)
        images = [a.image(weight, v1)]
        identity = torch.eye(2, device=u.device, dtype=_wide(u)).unsqueeze(0)
        (u,) = _combined(_unit(identity, _products(images))[0], images)
    return u, torch.cat([v1, torch.zeros_like(v1[:1])])


def _wide(vectors: Tensor) -> torch.dtype:
    return torch.promote_types(vectors.dtype, torch.float32)


def _products(vectors: Sequence[Tensor]) -> Tensor:
    """The inner products `[L, B, B]` of each of L `[B, ...]`, in single precision at least."""
    rows = [as_rows(one) for one in vectors]
    return torch.stack([(one @ one.t()).to(_wide(one)) for one in rows])


def _combined(coefficients: Tensor, vectors: Sequence[Tensor]) -> list[Tensor]:
    """Linear combinations, each `[C, ...]`, with coefficients `[L, C, B]`, of each of L `[B, ...]`."""
    combined = []
    for shares, one in zip(coefficients.unbind(), vectors, strict=True):
        rows = shares.to(one.dtype) @ as_rows(one)
        combined.append(rows.view(-1, *one.movedim(1, -1).shape[1:]).movedim(-1, 1))
    return combined


def _orthonormal(products: Tensor) -> Tensor:
    """Coefficients `[L, B, B]` of orthonormal vectors, by the products of those that they combine.

    Gram-Schmidt by a Cholesky factor: the first one keeps its direction, and what hardly differs from those
    before it becomes short, and not a direction made of rounding errors.
    """
    lengths = _lengths(products.diagonal(dim1=1, dim2=2))
    cosines = products / (lengths.unsqueeze(1) * lengths.unsqueeze(2))
    cosines.diagonal(dim1=1, dim2=2).add_(100 * torch.finfo(products.dtype).eps)
    identity = torch.eye(products.shape[1], dtype=products.dtype, device=products.device)
    if products.is_cuda:
        return eliminated(cosines, identity) / lengths.unsqueeze(1)
    lower, _ = torch.linalg.cholesky_ex(cosines)
    return torch.linalg.solve_triangular(lower, identity, upper=False) / lengths.unsqueeze(1)


def eliminated(matrices: Tensor, identity: Tensor) -> Tensor:
    """`L⁻¹`, `[L, B, B]`, of positive definite `A = L Lᵀ`, row by row: Gram-Schmidt, written out.

    A CUDA graph may refuse to capture the library behind `cholesky_ex`.
    """
    size = len(identity)
    rows = torch.cat([matrices, identity.expand_as(matrices)], 2)
    for k in range(size - 1):
        row, below = rows[:, k : k + 1], rows[:, k + 1 :]
        shares = below[:, :, k : k + 1] / row[:, :, k : k + 1]
        below.addcmul_(shares, row, value=-1)
    return rows[:, :, size:] / _lengths(rows.diagonal(dim1=1, dim2=2)).unsqueeze(2)


def _principal_axes(matrices: Tensor) -> Tensor:
    """Unit eigenvectors `[L, 2, B]` of the two largest eigenvalues of positive semidefinite `[L, B, B]`."""
    first = _principal_axis(matrices)
    stretched = matrices @ first.unsqueeze(2)
    return torch.stack([first, _principal_axis(matrices - stretched * first.unsqueeze(1))], 1)


def _principal_axis(matrices: Tensor) -> Tensor:
    """The unit eigenvector `[L, B]` of the largest eigenvalue of each; of 0 it is 0.

    By a high power, because an eigenvalue routine lets the host wait for a GPU, and refuses NaN. Where that
    cannot separate two eigenvalues, a combination of their vectors does as well.
    """
    tiny = torch.finfo(matrices.dtype).tiny
    largest = torch.linalg.vector_norm(matrices, math.inf, (1, 2), keepdim=True).clamp_min(tiny)
    power = torch.linalg.matrix_power(matrices / largest, 32)
    diagonal, index = power.diagonal(dim1=1, dim2=2).max(1, keepdim=True)
    column = index.unsqueeze(2).expand(-1, power.shape[1], 1)
    axis = power.gather(2, column).squeeze(2) / diagonal.clamp_min(tiny)
    return axis / torch.linalg.vector_norm(axis, dim=1, keepdim=True).clamp_min(tiny)


def _unit(coefficients: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients `[L, C, B]` of unit vectors, and the lengths `[L, C]` before, by the vectors' products."""
    lengths = _lengths((coefficients @ products * coefficients).sum(2))
    return coefficients / lengths.unsqueeze(2), lengths


def _lengths(squares: Tensor) -> Tensor:
    """Square roots, and not 0: what is too short to be squared stays short, divided by its length."""
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
