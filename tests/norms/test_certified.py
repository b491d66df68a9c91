"""Upper bounds: never below the SVD's singular value, and closer with each Gram iteration."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_oracles import Array, Case, cases, full_kernel, operator_matrix
from torch import nn

from gan_lab import norms
from gan_lab.norms import SigmaGram, SigmaLeastOfFour
from gan_lab.norms.certified import _gram as kernel_of_gram
from gan_lab.norms.certified import schatten_norm

every_case = st.one_of(cases(transposed=False), cases(transposed=True))
CHEAPEST = functools.partial(SigmaLeastOfFour, cheapest=True)
BOUNDS = [(SigmaLeastOfFour, range(8)), (CHEAPEST, range(4)), (SigmaGram, range(4))]


@settings(max_examples=80)
@given(every_case)
def test_no_bound_is_below_the_operators_norm(case: Case) -> None:
    """For every stride, dilation, padding and number of groups, in float32, at every number of iterations."""
    layer = case.layer()
    exact = np.linalg.norm(operator_matrix(full_kernel(layer), case.reaches), 2)
    for kind, iterations in BOUNDS:
        for count in iterations:
            assert kind(layer, count)(layer.weight).item() >= exact


@settings(max_examples=40)
@given(every_case)
def test_each_iteration_comes_closer(case: Case) -> None:
    layer = case.layer().double()
    for kind, iterations in BOUNDS:
        found = [kind(layer, count)(layer.weight).item() for count in iterations]
        assert np.all(np.diff(found) <= 1e-9 * found[0])


@settings(max_examples=100)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 6), st.integers(0, 2**16))
def test_a_matrix_bound_is_its_schatten_norm(rows: int, columns: int, iterations: int, seed: int) -> None:
    torch.manual_seed(seed)
    matrix = torch.randn(1, rows, columns).double()
    values = np.linalg.svd(matrix[0].numpy(), compute_uv=False)
    power = 2 ** (iterations + 1)
    expected = values[0] * ((values / values[0]) ** power).sum() ** (1 / power)
    assert schatten_norm(matrix, iterations).item() == pytest.approx(expected, rel=1e-10)
    linear = nn.Linear(columns, rows).double()
    with torch.no_grad():
        linear.weight.copy_(matrix[0])
    for kind in (SigmaLeastOfFour, SigmaGram):
        assert kind(linear, iterations)(linear.weight).item() == pytest.approx(expected, rel=1e-10)


def reshaped(kernel: Array, axes: tuple[bool, bool]) -> float:
    """The norm of the matrix that has these of kh and kw with the inputs, by an SVD."""
    rows = [0] + [2 + axis for axis in (0, 1) if not axes[axis]]
    columns = [1] + [2 + axis for axis in (0, 1) if axes[axis]]
    matrix = kernel.transpose(*rows, *columns).reshape(math.prod(kernel.shape[axis] for axis in rows), -1)
    return float(np.linalg.norm(matrix, 2))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_four_matrices_are_the_papers(stride: int) -> None:
    """After many iterations each bound is the SVD's, with its factor; and the least of them is taken."""
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 4, (3, 2), stride=stride).double()
    sigma = SigmaLeastOfFour(layer, 14)
    found = sigma.bounds(layer.weight)
    kernel = full_kernel(layer)
    assert set(found) == set(itertools.product([True, False], repeat=2))
    for axes, bound in found.items():
        overlaps = [-(-k // stride) if is_input else k for k, is_input in zip((3, 2), axes, strict=True)]
        expected = math.sqrt(math.prod(overlaps)) * reshaped(kernel, axes)
        assert bound.item() == pytest.approx(expected, rel=1e-3)
        assert bound.item() >= expected
    assert sigma(layer.weight) == min(found.values())
    (cheapest,) = SigmaLeastOfFour(layer, 14, cheapest=True).bounds(layer.weight).items()
    assert cheapest == ((True, True), found[True, True])  # its Gram matrix is 4 × 4, the others are larger
    assert {reshaped(kernel, (True, True))} < {reshaped(kernel, axes) for axes in found}


@pytest.mark.parametrize(
    ("taps", "stride", "dilation"), [(3, 1, 1), (4, 2, 1), (3, 1, 2), (5, 3, 2), (4, 2, 2)]
)
def test_grams_bound_comes_down_to_the_norm_on_an_unlimited_image(
    taps: int, stride: int, dilation: int
) -> None:
    """By the frequencies of a long image: the operator of a stride keeps every so many of its outputs."""
    torch.manual_seed(taps)
    layer = nn.Conv1d(2, 3, taps, stride=stride, dilation=dilation).double()
    length = 48 * stride
    # A circular image has no border; a stride-th of the positions of the convolution's outputs are kept.
    rows = []
    kernel = layer.weight.detach().numpy()
    for o, position in itertools.product(range(3), range(0, length, stride)):
        row = np.zeros((2, length))
        for tap in range(taps):
            row[:, (position + tap * dilation) % length] += kernel[o, :, tap]
        rows.append(row.ravel())
    exact = np.linalg.norm(np.array(rows), 2)
    bound = SigmaGram(layer, 9)(layer.weight).item()
    assert exact <= bound <= 1.02 * exact


def test_a_box_filter_has_the_norm_of_its_sum() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1).double()
    nn.init.ones_(layer.weight)
    assert SigmaGram(layer, 0)(layer.weight).item() == pytest.approx(9)
    assert SigmaLeastOfFour(layer, 3)(layer.weight).item() == pytest.approx(9)


@pytest.mark.parametrize("kind", [SigmaLeastOfFour, SigmaGram])
def test_other_paddings_are_refused_by_a_sentence(kind: type[norms.SigmaEstimator]) -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))
    with pytest.raises(ValueError, match="layer 0 cannot be normalized: its bound holds for zero padding"):
        norms.normalize(net, kind)
    with pytest.raises(ValueError, match="iterations=-1 is no whole number from 0"):
        kind(nn.Linear(2, 2), -1)


def test_a_kernel_that_would_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"iterations=12 need a kernel of .* numbers: take fewer"):
        SigmaGram(nn.Conv2d(64, 64, 3), 12)


@pytest.mark.parametrize("kind", [SigmaLeastOfFour, SigmaGram])
def test_no_layer_stretches_by_more_than_the_scale_after_a_large_step(
    kind: type[norms.SigmaEstimator],
) -> None:
    """After a large step, where power iteration with a memory would have to catch up first."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Conv2d(8, 8, 4, padding=1))
    norms.normalize(net, kind, scale=0.7)
    for _ in range(3):
        with torch.no_grad():
            for layer in net:
                norms.trained_weight(layer).normal_(std=torch.rand(()).item())
        for layer, size in zip(net, (8, 4), strict=True):
            basis = torch.eye(layer.in_channels * size**2).reshape(-1, layer.in_channels, size, size)
            matrix = (layer(basis) - layer(0 * basis)).detach().flatten(1).double()
            assert float(torch.linalg.matrix_norm(matrix, 2)) <= 0.7


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_a_grams_kernel_is_the_kernel_convolved_with_itself(
    taps: list[int], n: int, m: int, seed: int
) -> None:
    """By frequencies as by PyTorch's convolution, at 0 and at the positions after it."""
    kernel = torch.randn(n, m, *taps, generator=torch.Generator().manual_seed(seed)).double()
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(taps) - 1]
    expected = convolve(kernel, kernel, padding=[k - 1 for k in taps]).flatten(2).permute(2, 1, 0)
    found = kernel_of_gram(kernel.flatten(2).movedim(2, 0), tuple(taps))
    torch.testing.assert_close(found, expected[len(expected) // 2 :], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 300, 310), (1, 530, 520)])
def test_the_gradient_is_the_singular_vectors_after_many_iterations(shape: tuple[int, int, int]) -> None:
    """`u vᵀ` of the matrix whose norm is asked for; of large ones a part of each product is left out."""
    torch.manual_seed(0)
    matrices = torch.randn(shape).double()
    matrices[:, 0] *= 4  # one singular value is far from the others
    matrices.requires_grad_()
    found = schatten_norm(matrices, 8).max(0)
    found.values.backward()
    u, values, v = torch.linalg.svd(matrices.detach()[found.indices], full_matrices=False)
    assert found.values.item() == pytest.approx(values[0].item(), rel=1e-9)
    expected = torch.zeros(shape).double()
    expected[found.indices] = torch.outer(u[:, 0], v[0])
    torch.testing.assert_close(matrices.grad, expected, rtol=0, atol=1e-9)
