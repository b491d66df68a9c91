"""Orthonormalization written out, as a GPU takes it, against a Cholesky factor and a QR decomposition."""

import pytest
import torch
from torch import Tensor

from gan_lab.norms.power_iteration import eliminated


def vectors(nearly_the_same: float, count: int = 5) -> Tensor:
    """Unit vectors `[3, count, 40]`, of three maps; each but the first is near the first."""
    rng = torch.Generator().manual_seed(0)
    others = torch.randn(3, count, 40, generator=rng, dtype=torch.float64)
    others[:, 1:] = others[:, :1] + nearly_the_same * others[:, 1:]
    return torch.nn.functional.normalize(others, dim=2)


def orthonormal(rows: Tensor) -> Tensor:
    products = rows @ rows.mT
    return eliminated(products, torch.eye(products.shape[1], dtype=rows.dtype)) @ rows


@pytest.mark.parametrize("nearly_the_same", [1.0, 1e-3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_is_the_q_of_qr(nearly_the_same: float, count: int) -> None:
    rows = vectors(nearly_the_same, count)
    q, r = torch.linalg.qr(rows.mT)
    expected = (q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)).mT  # QR's signs are free
    torch.testing.assert_close(orthonormal(rows), expected, rtol=1e-6, atol=1e-8)


def test_it_is_the_inverse_of_choleskys_factor_in_single_precision() -> None:
    rows = vectors(0.1).float()
    products = rows @ rows.mT + 1e-5 * torch.eye(5)
    lower = torch.linalg.cholesky(products)
    expected = torch.linalg.solve_triangular(lower, torch.eye(5), upper=False)
    torch.testing.assert_close(eliminated(products, torch.eye(5)), expected, rtol=1e-3, atol=1e-3)


def test_the_first_vector_keeps_its_direction_and_a_copy_of_it_becomes_short() -> None:
    """By the small share of the identity that is added to products, no direction is made of rounding."""
    rows = vectors(1.0, 3).float()
    rows[:, 1] = rows[:, 0]
    products = rows @ rows.mT + 100 * torch.finfo(torch.float32).eps * torch.eye(3)
    found = eliminated(products, torch.eye(3)) @ rows
    torch.testing.assert_close(found[:, 0], rows[:, 0], rtol=1e-4, atol=1e-5)
    assert (found[:, 1].norm(dim=1) < 0.05).all()
    assert ((found[:, 2] * found[:, 0]).sum(1).abs() < 1e-3).all()


def test_nan_is_no_error() -> None:
    assert eliminated(torch.full((1, 3, 3), torch.nan), torch.eye(3)).isnan().any()
