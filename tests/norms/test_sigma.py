"""Each estimator against an SVD that shares no code with it, on hundreds of random shapes."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_oracles import Case, cases, full_kernel, norm_in, norm_out, operator_matrix
from torch import Tensor, nn

from gan_lab.norms import SigmaBidirectional, SigmaEstimator, SigmaIn, SigmaOperator, SigmaOut
from gan_lab.norms.audit import audit
from gan_lab.norms.operator import LayerOperator, dense

RESHAPED, OPERATOR = 1e-5, 1e-4  # relative errors after convergence, float32


def converged(estimator: SigmaEstimator, weight: Tensor, tolerance: float) -> float:
    """Sigma once twice as many iterations change it by less than a twentieth of the tolerance."""
    sigma, steps = -math.inf, 10
    while True:
        before = sigma
        for _ in range(steps):
            estimator.power_iterate(weight)
        sigma, steps = estimator(weight).item(), 2 * steps
        if abs(sigma - before) <= 0.05 * tolerance * sigma or steps > 20_000:
            return sigma


def check_estimators(case: Case) -> None:
    layer = case.layer()
    weight, kernel = layer.weight.detach(), full_kernel(layer)
    matrix = operator_matrix(kernel, case.reaches)

    image = case.images()
    bias = layer.bias.detach()[:, None, None]
    expected = matrix @ image.double().flatten().numpy()
    np.testing.assert_allclose((layer(image).detach() - bias).flatten().numpy(), expected, atol=1e-5)

    sigma_out, sigma_in, sigma_op = norm_out(kernel), norm_in(kernel), float(np.linalg.norm(matrix, 2))
    both = SigmaBidirectional(layer)  # made of a SigmaOut and a SigmaIn
    sigma_bi = (sigma_out + sigma_in) / 2
    assert converged(both, weight, RESHAPED) == pytest.approx(sigma_bi, rel=RESHAPED)
    parts = {name: value.item() for name, value in both.parts(weight).items()}
    assert parts == pytest.approx({"sigma_out": sigma_out, "sigma_in": sigma_in}, rel=RESHAPED)
    estimated = converged(SigmaOperator(layer, case.size), weight, OPERATOR)
    assert estimated == pytest.approx(sigma_op, rel=OPERATOR)

    (row,) = audit(nn.Sequential(layer), image).layers
    exact = pytest.approx([sigma_out, sigma_in, sigma_op], rel=1e-9)
    assert [row.sigma_out, row.sigma_in, row.sigma_op] == exact
    check_relations(case, sigma_out, sigma_in, sigma_op)


def check_relations(case: Case, sigma_out: float, sigma_in: float, sigma_op: float) -> None:
    """The reference's relations, each where its condition holds."""
    taps = math.prod(case.kernel)
    slack = 1 + 1e-9
    assert sigma_op <= math.sqrt(taps) * min(sigma_out, sigma_in) * slack
    outputs_see_all_taps = all(joins.any(2).all(0).any() for joins in case.reaches)
    inputs_meet_all_taps = all(joins.any(1).all(0).any() for joins in case.reaches)
    if not case.transposed and case.padding == (0, 0):
        assert outputs_see_all_taps
    if outputs_see_all_taps:
        assert sigma_out <= sigma_op * slack
    if inputs_meet_all_taps:
        assert sigma_in <= sigma_op * slack


@settings(max_examples=200)
@given(cases(transposed=False))
def test_convolutions(case: Case) -> None:
    check_estimators(case)


@settings(max_examples=120)
@given(cases(transposed=True))
def test_transposed_convolutions(case: Case) -> None:
    check_estimators(case)


@settings(max_examples=60)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**16))
def test_linear_layers_have_one_sigma(inputs: int, outputs: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs)
    exact = np.linalg.svd(layer.weight.detach().double().numpy(), compute_uv=False)[0]
    estimators = SigmaOut(layer), SigmaIn(layer), SigmaBidirectional(layer), SigmaOperator(layer, ())
    for estimator in estimators:
        assert converged(estimator, layer.weight.detach(), RESHAPED) == pytest.approx(exact, rel=RESHAPED)
    (row,) = audit(nn.Sequential(layer), torch.zeros(1, inputs)).layers
    assert [row.sigma_out, row.sigma_in, row.sigma_op] == pytest.approx([exact] * 3, rel=1e-9)


@settings(max_examples=300)
@given(st.one_of(cases(transposed=False), cases(transposed=True)))
def test_the_adjoint_is_exact(case: Case) -> None:
    """`<Ax, y> = <x, Aᵀy>` for a batch, also where a stride leaves out the last inputs, in float64."""
    layer = case.layer().double()
    operator = LayerOperator.of(layer, case.size)
    x = torch.randn(2, *operator.input_shape[1:], dtype=torch.float64)
    y = torch.randn(2, *operator.output_shape[1:], dtype=torch.float64)
    weight = layer.weight.detach()
    left, right = operator.apply(weight, x) * y, x * operator.adjoint(weight, y)
    size = left.abs().sum().item()
    np.testing.assert_allclose(left.flatten(1).sum(1), right.flatten(1).sum(1), atol=1e-13 * size)
    np.testing.assert_allclose(operator.apply(weight, x), (layer(x) - layer(0 * x)).detach(), atol=1e-12)


def test_a_stride_can_leave_out_the_last_inputs() -> None:
    """What a transposed convolution alone gets wrong: the size is not a function of the output's."""
    operator = LayerOperator.of(nn.Conv2d(1, 1, 2, stride=3), (7, 7))
    assert operator.output_shape == (1, 1, 2, 2)
    adjoint = operator.adjoint(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    row = torch.tensor([1.0, 1, 0, 1, 1, 0, 0])
    assert torch.equal(adjoint[0, 0], torch.outer(row, row))


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_and_three_axes(axes: int, transposed: bool) -> None:
    torch.manual_seed(axes)
    kind = {1: (nn.Conv1d, nn.ConvTranspose1d), 3: (nn.Conv3d, nn.ConvTranspose3d)}[axes][transposed]
    layer = kind(4, 6, 3, stride=2, padding=1, groups=2)
    image = torch.randn(1, 4, *(5, 4, 3)[:axes])
    # Column by column through the layer itself.
    basis = torch.eye(image[0].numel()).reshape(-1, *image.shape[1:])
    matrix = (layer(basis) - layer(0 * basis)).detach().flatten(1).double().numpy()
    exact = np.linalg.norm(matrix, 2)
    sigma = converged(SigmaOperator(layer, tuple(image.shape[2:])), layer.weight.detach(), OPERATOR)
    assert sigma == pytest.approx(exact, rel=OPERATOR)
    (row,) = audit(nn.Sequential(layer), image).layers
    assert row.sigma_op == pytest.approx(exact, rel=1e-5)
    by_group = layer.weight.detach().double().reshape(2, -1, *layer.weight.shape[1:])
    swap = (lambda kernel: kernel.transpose(0, 1)) if transposed else (lambda kernel: kernel)
    blocks = [swap(kernel).numpy() for kernel in by_group]
    assert row.sigma_out == pytest.approx(max(norm_out(block) for block in blocks), rel=1e-9)
    assert row.sigma_in == pytest.approx(max(norm_in(block) for block in blocks), rel=1e-9)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str) -> None:
    layer = nn.Conv2d(2, 3, (3, 5), padding=padding, dilation=(2, 1))
    image = torch.randn(1, 2, 9, 8)
    operator = LayerOperator.of(layer, (9, 8))
    assert operator.output_shape[1:] == layer(image).shape[1:]
    matrix = dense(operator, layer.weight.detach())
    expected = (layer(image) - layer(0 * image)).detach().flatten()
    torch.testing.assert_close(matrix @ image.flatten(), expected)


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.Conv2d(2, 2, 4, padding="same"), "unequally"),
    ],
)
def test_what_has_no_operator_is_refused(layer: nn.Module, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SigmaOperator(layer, (8, 8))


ESTIMATORS = {
    "out": SigmaOut,
    "in": SigmaIn,
    "bidirectional": SigmaBidirectional,
    "operator": lambda layer: SigmaOperator(layer, (6, 6)),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_sigma_is_positive_from_the_start_and_only_rises(name: str) -> None:
    """Power iteration on a fixed weight: no step's estimate is below the last, none above the truth."""
    for seed in range(8):
        torch.manual_seed(seed)
        layer = nn.Conv2d(3, 5, 3).double()
        sigma = ESTIMATORS[name](layer)
        values = [sigma(layer.weight).item()]
        for _ in range(20):
            sigma.power_iterate(layer.weight)
            values.append(sigma(layer.weight).item())
        assert values[0] > 0
        assert np.all(np.diff(values) >= -1e-12)
        assert values[0] < values[1]
        assert values[-1] <= converged(sigma, layer.weight, 1e-8) * (1 + 1e-12)


def crossing(time: float) -> Tensor:
    """`[32, 96]`: one singular value falls from 1 to 0.5, one rises from 0.5 to 1, all others are less."""
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(32, 32))
    right, _ = torch.linalg.qr(torch.randn(96, 32))
    values = torch.linspace(0.45, 0, 32)
    values[:2] = torch.tensor([1 - time / 2, 0.5 + time / 2])
    return (left * values) @ right.t()


@pytest.mark.parametrize("make", [SigmaOut, SigmaIn, lambda layer: SigmaOperator(layer, ())])
def test_a_singular_value_that_is_overtaken_is_left_at_once(make: Callable[..., SigmaEstimator]) -> None:
    """With one step an update, where one vector alone is a quarter off."""
    layer = nn.Linear(96, 32)
    with torch.no_grad():
        layer.weight.copy_(crossing(0))
    sigma, alone = make(layer), torch.ones(96)
    errors, errors_alone = [], []
    for step in range(-100, 101):
        time = max(0, step / 100)
        weight, exact = crossing(time), max(1 - time / 2, 0.5 + time / 2)
        sigma.power_iterate(weight)
        alone = weight.t() @ (weight @ alone)
        alone = alone / alone.norm()
        if step >= 0:
            errors.append(1 - sigma(weight).item() / exact)
            errors_alone.append(1 - (weight @ alone).norm().item() / exact)
    assert max(errors_alone) > 0.25
    assert -1e-5 < min(errors) <= max(errors) < 2e-3


def test_pytorchs_spectral_norm_divides_by_the_same_number() -> None:
    """A second implementation of SN, once both have converged."""
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, 3)
    weight = layer.weight.detach().clone()
    sigma = converged(SigmaOut(layer), weight, RESHAPED)
    nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=500)
    torch.testing.assert_close(layer.eval().weight.detach(), weight / sigma)


def test_a_tiny_weight_has_its_own_sigma() -> None:
    """No constant against division by zero that a weight of 1e-14 would feel."""
    layer = nn.Linear(6, 4)
    with torch.no_grad():
        layer.weight.mul_(1e-14)
    exact = np.linalg.norm(layer.weight.detach().double().numpy(), 2)
    assert converged(SigmaOut(layer), layer.weight.detach(), RESHAPED) == pytest.approx(exact, rel=RESHAPED)
