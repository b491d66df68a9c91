"""The audit: exact by two methods, harmless, and true of the effective weights."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_families import FAMILIES, family
from norm_networks import ESTIMATORS, GAMMAS, LAYERS, images, moved, network, normalized, vectors
from norm_oracles import Case, cases, full_kernel, operator_matrix
from torch import Tensor, nn

from gan_lab import norms
from gan_lab.archs.dcgan import Discriminator, Generator
from gan_lab.norms import audit as module
from gan_lab.norms.audit import audit, operator_norm
from gan_lab.norms.operator import LayerOperator


@settings(max_examples=60)
@given(cases(transposed=False))
def test_lanczos_finds_what_the_svd_finds(case: Case) -> None:
    layer = case.layer()
    operator = LayerOperator.of(layer, case.size)
    if math.prod(operator.input_shape) == 1:
        return  # one input: its matrix is a column, and always small enough for an SVD
    limit, module.DENSE_LIMIT = module.DENSE_LIMIT, 0
    try:
        sigma, method, residual = operator_norm(operator, layer.weight)
    finally:
        module.DENSE_LIMIT = limit
    exact = np.linalg.norm(operator_matrix(full_kernel(layer), case.reaches), 2)
    assert method == "lanczos"
    assert residual < 1e-8
    assert sigma == pytest.approx(exact, rel=1e-9)


def test_a_large_operator_meets_the_closed_form() -> None:
    """A box filter: the norm of a tridiagonal Toeplitz matrix, 1 + 2 cos(π/(n + 1))."""
    layer = nn.Conv1d(1, 1, 3, padding=1)
    nn.init.ones_(layer.weight)
    n = 2000
    sigma, method, residual = operator_norm(LayerOperator.of(layer, (n,)), layer.weight)
    assert method == "lanczos"
    assert sigma == pytest.approx(1 + 2 * math.cos(math.pi / (n + 1)), rel=1e-9)
    assert residual < 1e-6


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_are_of_the_weights_that_the_network_uses(estimator: str, gamma: str) -> None:
    net = normalized(estimator, gamma, scale=1.3, warmup_iterations=2)
    rows = {row.layer: row for row in audit(net, images(1)).layers}
    assert list(rows) == LAYERS
    for name, layer, _ in norms.normalized_layers(net):
        row = rows[name]
        exact = {
            "out": row.sigma_out,
            "in": row.sigma_in,
            "bidirectional": (row.sigma_out + row.sigma_in) / 2,
            "operator": row.sigma_op,
        }[estimator]
        assert row.exact == exact
        assert row.estimated == pytest.approx(norms.sigmas(net)[f"sigma/{name}"].item())
        assert row.relative_error == pytest.approx(1 - row.estimated / exact, abs=1e-6)
        assert row.operator_norm == pytest.approx(1.3 * row.sigma_op / row.estimated)
        with norms.frozen(net):
            weight = layer.weight.detach().clone()
    norms.remove(net)  # and once more, of the effective weights as they are
    for row in audit(net, images(1)).layers:
        assert row.sigma_op == row.operator_norm == pytest.approx(rows[row.layer].operator_norm)
        assert row.estimated is row.exact is row.relative_error is None
    torch.testing.assert_close(net[7].weight, weight)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_audit_changes_nothing(estimator: str) -> None:
    net = normalized(estimator, warmup_iterations=1)
    net[3].eval()
    modes, before = [m.training for m in net.modules()], vectors(net)
    audit(net, images(2))
    assert [m.training for m in net.modules()] == modes
    assert not any(moved(before, net))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_pre_hooks for m in net.modules() if estimator != "operator")


@pytest.mark.parametrize("network_of", [lambda: Discriminator(32, 0.0625), lambda: Generator(32, 8, 0.0625)])
def test_the_projects_networks_have_a_lipschitz_constant(network_of: type[nn.Module]) -> None:
    """No two inputs are stretched by more, and the first layer's own direction by a fair share of it."""
    torch.manual_seed(0)
    net = network_of().eval()
    shape = (64, 8) if isinstance(net, Generator) else (64, 3, 32, 32)
    x, y = torch.randn(shape), torch.randn(shape)
    found = audit(net, x)
    assert found.lipschitz_unknown == ""
    stretched = (net(x) - net(y)).reshape(64, -1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert 0 < stretched.max() <= found.lipschitz


def test_unknown_modules_are_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(50, 1))
    found = audit(net, images(1))
    assert found.lipschitz is None
    assert "no Lipschitz constant is known for GELU" in found.lipschitz_unknown
    assert len(found.layers) == 2


def test_foreign_parametrizations_are_audited_as_they_act() -> None:
    """The effective weight, without moving PyTorch's own singular vectors."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(100, 1))
    nn.utils.parametrizations.spectral_norm(net[0], n_power_iterations=100)
    nn.utils.parametrizations.weight_norm(net[2])
    before = vectors(net)
    rows = audit(net, images(1)).layers
    assert rows[0].sigma_out == pytest.approx(1, rel=1e-5)
    assert rows[1].sigma_op == pytest.approx(net[2].weight.norm().item(), rel=1e-5)
    assert not any(moved(before, net))


def test_an_estimator_of_the_users_own_has_no_exact_value() -> None:
    class Frobenius(norms.SigmaEstimator):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()

        def power_iterate(self, weight: Tensor) -> None:
            pass

        def forward(self, weight: Tensor) -> Tensor:
            return weight.norm()

    net = network()
    norms.normalize(net, Frobenius)
    for row in audit(net, images(1)).layers:
        assert row.estimated > 0
        assert row.exact is row.relative_error is None
        assert row.operator_norm == pytest.approx(row.sigma_op / row.estimated)


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"), "layer 0 cannot be audited: .*zero padding"),
        (nn.Conv2d(3, 2, 3), "layer 0 cannot be audited: its weight is not finite"),
    ],
)
def test_what_cannot_be_audited_is_named(layer: nn.Module, word: str) -> None:
    if layer.padding_mode == "zeros":
        nn.init.constant_(layer.weight, math.inf)
    with pytest.raises(ValueError, match=word):
        audit(nn.Sequential(layer), images(1))


def test_weights_of_zeros() -> None:
    net = network()
    for name in LAYERS:
        nn.init.zeros_(net.get_submodule(name).weight)
    found = audit(net, images(1))
    assert found.lipschitz == 0
    assert {row.sigma_out for row in found.layers} == {row.operator_norm for row in found.layers} == {0.0}
    net = normalized("out")
    nn.init.zeros_(norms.trained_weight(net[2]))
    with pytest.raises(ValueError, match="layer 2 cannot be audited: its sigma is 0"):
        audit(net, images(1))


@settings(max_examples=40)
@given(st.one_of(cases(transposed=False), cases(transposed=True)))
def test_the_spectrum_is_that_of_the_reshaped_kernel(case: Case) -> None:
    layer = case.layer()
    kernel = full_kernel(layer)
    values = np.linalg.svd(kernel.reshape(len(kernel), -1), compute_uv=False)
    count = case.groups * min(case.c_out // case.groups, case.c_in // case.groups * math.prod(case.kernel))
    values = values[:count]  # the others are zeros between the groups
    (row,) = audit(nn.Sequential(layer), case.images()).layers
    shares = values / values.sum()
    assert row.spectrum.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2)
    assert row.spectrum.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert row.spectrum.median == pytest.approx(np.sort(values)[(count - 1) // 2] / values[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_rows_are_of_the_weights_that_the_network_uses(name: str) -> None:
    net = family(name)
    rows = {row.layer: row for row in audit(net, images(1)).layers}
    norms.remove(net)
    for row in audit(net, images(1)).layers:
        found = rows[row.layer]
        assert found.operator_norm == pytest.approx(row.operator_norm, rel=1e-5)
        assert found.spectrum.stable_rank == pytest.approx(row.spectrum.stable_rank, rel=1e-4)
        assert found.exact is not None
        if name in ("least of four", "certified", "gram"):
            assert found.operator_norm <= 1.3
            assert found.estimated >= found.exact
        elif name not in ("clipped operator", "stable rank"):
            assert found.relative_error < 1e-3
