"""Upper bounds on the norm of a layer's operator, of any input size, that keep nothing between two updates.

Power iteration comes to a singular value from below, so that a layer can stretch by more than its norm says
until it has converged. These come from above, at every step, and are functions of the weight only.

Both hold for zero padding of any width, which only leaves out rows and columns of the operator on an
unlimited image; other padding modes are refused. `docs/theory.md` has the proofs.
"""

import functools
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gan_lab.device import full_precision
from gan_lab.norms.sigma import SigmaEstimator

LARGEST_KERNEL = 2**28  # numbers, a gigabyte in float32
LARGE = 512  # rows of a symmetric product of which half is worth leaving out


class _Certified(SigmaEstimator):
    """What the two bounds know of a layer: its kernel as a convolution's, which it or its adjoint is."""

    def __init__(self, layer: nn.Module, iterations: int) -> None:
        super().__init__()
        if not isinstance(iterations, int) or iterations < 0:
            raise ValueError(f"iterations={iterations} is no whole number from 0: set it to one")
        mode = getattr(layer, "padding_mode", "zeros")
        if mode != "zeros":
            raise ValueError(f"its bound holds for zero padding, not padding_mode={mode!r}")
        self.iterations = iterations
        assert isinstance(layer.weight, Tensor)
        axes = layer.weight.ndim - 2
        self.groups: int = getattr(layer, "groups", 1)
        self.stride: tuple[int, ...] = getattr(layer, "stride", ())[:axes]
        self.dilation: tuple[int, ...] = getattr(layer, "dilation", ())[:axes]
        self.taps: tuple[int, ...] = tuple(layer.weight.shape[2:])

    def kernel(self, weight: Tensor) -> Tensor:
        """`[groups, outputs, inputs, *taps]` of one group; a transposed convolution is the adjoint of it."""
        return weight.reshape(self.groups, -1, *weight.shape[1:])


class SigmaLeastOfFour(_Certified):
    """The least of four bounds `√(kh·kw)·‖W reshaped‖` on the operator's norm (Singla & Feizi 2021).

    The kernel becomes a matrix by putting each of its axes, kh and kw, to the outputs or to the inputs. A
    stride lets an axis with the inputs count `⌈k/stride⌉` times instead of k. The matrices' norms are bounded
    by `iterations` Gram iterations, see `schatten_norm`. Two matrices for one axis, eight for three. With
    `cheapest` only the one whose Gram matrix is the smallest: for wide layers a tenth of the cost.
    """

    def __init__(self, layer: nn.Module, iterations: int = 5, cheapest: bool = False) -> None:
        super().__init__(layer, iterations)
        self.ways = list(itertools.product(*([True, False] if k > 1 else [True] for k in self.taps)))
        if cheapest:
            assert isinstance(layer.weight, Tensor)
            kernel = self.kernel(layer.weight.detach())
            self.ways = [min(self.ways, key=lambda way: (self._gram_size(kernel, way), self._overlaps(way)))]

    def forward(self, weight: Tensor) -> Tensor:
        return torch.stack(list(self.bounds(weight).values())).min(0).values

    def bounds(self, weight: Tensor) -> dict[tuple[bool, ...], Tensor]:
        """Each bound by which axes are put to the inputs; the gradient of one of them can be taken."""
        matrices = {way: _wide(self._matrices(self.kernel(weight), way)) for way in self.ways}
        norms: dict[tuple[bool, ...], Tensor] = {}
        for shape in dict.fromkeys(one.shape for one in matrices.values()):
            alike = {way: one for way, one in matrices.items() if one.shape == shape}
            together = torch.cat(list(alike.values())) if len(alike) > 1 else matrices[next(iter(alike))]
            of_groups = schatten_norm(together, self.iterations)
            norms |= zip(alike, of_groups.view(-1, self.groups).max(1).values, strict=True)
        return {way: math.sqrt(self._overlaps(way)) * norms[way] for way in self.ways}

    def _matrices(self, kernel: Tensor, way: tuple[bool, ...]) -> Tensor:
        to_outputs = [axis for axis, is_input in enumerate(way, start=3) if not is_input]
        to_inputs = [axis for axis, is_input in enumerate(way, start=3) if is_input]
        rows = math.prod(kernel.shape[axis] for axis in (1, *to_outputs))
        return kernel.permute(0, 1, *to_outputs, 2, *to_inputs).reshape(self.groups, rows, -1)

    def _gram_size(self, kernel: Tensor, way: tuple[bool, ...]) -> int:
        return min(self._matrices(kernel, way).shape[1:])

    def _overlaps(self, way: tuple[bool, ...]) -> int:
        return math.prod(self._overlap(axis) if way[axis] else k for axis, k in enumerate(self.taps))

    def _overlap(self, axis: int) -> int:
        return _most_overlaps(self.taps[axis], self.stride[axis], self.dilation[axis])


class SigmaGram(_Certified):
    """An upper bound on the operator's norm by Gram iterations of the kernel (Delattre et al. 2024).

    `G ← G Gᵀ`, each a convolution of the kernel with itself, squares the operator; after t `iterations`
    `Σ_δ ‖G_δ‖_F^(1/2^t)`, over the kernel's positions δ, bounds the norm, and comes down to that of the
    operator on an unlimited image. Each doubles the kernel's reach and, along two axes, costs four times as
    much as the one before, so few are taken. Assumes a stride of 1; a stride is made one here by taking the
    pixels of a stride for channels, which changes no norm.
    """

    def __init__(self, layer: nn.Module, iterations: int = 2) -> None:
        super().__init__(layer, iterations)
        assert isinstance(layer.weight, Tensor)
        _, outputs, inputs, *_ = self.kernel(layer.weight).shape
        positions = math.prod((k - 1) * 2**iterations + 1 for k in self.taps)
        numbers = positions * max(min(outputs, inputs) ** 2, positions)
        if numbers > LARGEST_KERNEL:
            raise ValueError(f"iterations={iterations} need a kernel of {numbers:.1g} numbers: take fewer")

    @full_precision()
    def forward(self, weight: Tensor) -> Tensor:
        return torch.stack([self._bound(kernel) for kernel in self.kernel(weight)]).max()

    def _bound(self, kernel: Tensor) -> Tensor:
        """Of one group's kernel `[outputs, inputs, *taps]`."""
        kernel = self._without_stride(kernel)
        if kernel.shape[1] < kernel.shape[0]:
            kernel = kernel.transpose(0, 1)  # the adjoint's, up to the order of the taps
        taps = tuple(kernel.shape[2:])
        kernel = kernel.reshape(*kernel.shape[:2], -1).movedim(2, 0)  # [positions, n, m]
        size = bound = _size(kernel).clamp_min(torch.finfo(kernel.dtype).tiny)
        doubt = 16.0  # in roundings
        for power in range(1, self.iterations + 1):
            kernel = kernel / size
            doubt += 0.5**power * _roundings_of_gram(kernel, taps, self.iterations - power)
            gram = _gram(kernel, taps)
            size = _size(gram) + _size(gram[1:])  # the positions before 0 count as much as those after it
            bound = bound * size ** (0.5**power)
            taps = tuple(2 * k - 1 for k in taps)
            if power < self.iterations:
                kernel = torch.cat([gram[1:].flip(0).transpose(1, 2), gram])
        return bound * (1 + doubt * torch.finfo(kernel.dtype).eps / 2)

    def _without_stride(self, kernel: Tensor) -> Tensor:
        """The kernel of the same map with the pixels of a stride as channels."""
        for axis, (stride, dilation) in enumerate(zip(self.stride, self.dilation, strict=True), start=2):
            if stride == 1:
                continue  # a dilation then only interleaves maps that are alike
            if dilation > 1:
                spread = kernel.new_zeros(*kernel.shape[: axis + 1], dilation, *kernel.shape[axis + 1 :])
                spread.select(axis + 1, 0).copy_(kernel)
                kernel = spread.flatten(axis, axis + 1)
            missing = -kernel.shape[axis] % stride
            kernel = F.pad(kernel, [0, 0] * (kernel.ndim - axis - 1) + [0, missing])
            kernel = kernel.unflatten(axis, (-1, stride)).movedim(axis + 1, 2).flatten(1, 2)
        return kernel


def _gram(kernel: Tensor, taps: tuple[int, ...]) -> Tensor:
    """The kernel of AAᵀ by A's, `[positions, n, m]` on a grid of `taps`: at 0, and at the positions after it.

    These are half of those of the grid `2·taps − 1`, `[half, n, n]`; at −δ it is the transpose of that at δ.
    Made by as many frequencies, which is exact: `Â Âᴴ` at each is one product, while the convolution takes
    one for each two positions of A.
    """
    grid = tuple(2 * k - 1 for k in taps)
    cos, sin = _waves(grid, taps, kernel.dtype, kernel.device)
    real, imaginary = torch.tensordot(cos, kernel, 1), torch.tensordot(sin, kernel, 1)
    # `Â Âᴴ` is a symmetric matrix and i times an antisymmetric one: it is kept as the sum of both.
    product = torch.bmm(real, (real + imaginary).transpose(1, 2))
    product = torch.baddbmm(product, imaginary, (imaginary - real).transpose(1, 2))
    cos, sin = _waves(grid, grid, kernel.dtype, kernel.device)
    share = torch.full_like(cos[:, :1], 1 / cos.shape[1])  # of the sum and of its transpose
    share[0] /= 2  # every other frequency stands for its negative too
    weights = torch.stack([share * (cos + sin), share * (cos - sin)])[..., cos.shape[1] // 2 :]
    there, back = torch.tensordot(weights.transpose(1, 2), product, 1)
    return there + back.transpose(1, 2)


@functools.lru_cache(maxsize=128)
@torch.inference_mode(False)  # whoever asks first: they are kept for training
def _waves(
    grid: tuple[int, ...], taps: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines at the positions of `taps` by the frequencies of an odd `grid`, `[half, positions]`.

    Of a frequency and its negative one is there, and 0 is the first.
    """
    turns = torch.zeros(1, 1, dtype=torch.float64, device=device)
    for n, k in zip(grid, taps, strict=True):
        frequencies = torch.arange(n, device=device, dtype=torch.float64) - n // 2
        positions = torch.arange(k, device=device, dtype=torch.float64) - k // 2
        axis = torch.outer(frequencies, positions) % n / n
        turns = (turns[:, None, :, None] + axis[:, None, :]).flatten(2).flatten(0, 1)
    angles = 2 * math.pi * turns[len(turns) // 2 :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _roundings_of_gram(kernel: Tensor, taps: tuple[int, ...], later: int) -> float:
    """How many roundings can be in the Gram kernel of `[T, n, m]`, over what its bound will be.

    Its N positions are made by N frequencies, each from sums of T terms, by products of 2m terms, and sums
    of N terms back; each is off by at most as many roundings of the sum of the absolute values (Higham
    2002, section 3.5). With Parseval's equation these are together at most so many times ‖K‖_F², which is at
    most `n^(1 − 1/2^(r + 1))` times the bound after r `later` iterations.
    """
    positions, n, m = kernel.shape
    grid = math.prod(2 * k - 1 for k in taps)
    roundings = 3 * math.sqrt(grid * positions) * (m + 2 * (positions + 1)) + 2 * grid * (grid + 2)
    return roundings * n ** (1 - 0.5 ** (later + 1))


def _size(kernel: Tensor) -> Tensor:
    """`Σ_δ ‖K_δ‖_F`, which bounds the norm of the convolution: each tap's matrix only shifts its image."""
    return torch.linalg.vector_norm(kernel, dim=(1, 2)).sum()


def _most_overlaps(taps: int, stride: int, dilation: int) -> int:
    """In how many of a convolution's windows one pixel can lie, along one axis."""
    return -(-taps // (stride // math.gcd(stride, dilation)))


def schatten_norm(matrices: Tensor, iterations: int) -> Tensor:
    """`(Σ_i σ_i^p)^(1/p)` of each of `[B, m, n]`, p = 2^(iterations + 1), by Gram iterations; `[B]`.

    `σ_1 ≤` it `≤ rank^(1/p)·σ_1` in exact arithmetic; a margin covers what each product's rounding can take
    from the Frobenius norm (which is no proof where many singular values are nearly alike). Its gradient can
    be taken once, and of one of the B numbers only: in that of the largest or least of them the others are
    not there.
    """
    wide = _wide(matrices)
    norm: Tensor = _Schatten.apply(wide, iterations)
    doubt = 16 + sum(_roundings(wide.shape[1], terms) / 2 for terms in wide.shape[1:])
    return norm * (1 + doubt * torch.finfo(wide.dtype).eps / 2)


def _wide(matrices: Tensor) -> Tensor:
    return matrices if matrices.shape[1] <= matrices.shape[2] else matrices.transpose(1, 2)


def _roundings(size: int, terms: int) -> float:
    """How many roundings can be in a Gram matrix `[size, size]`, in terms of its own size.

    Each entry is a sum of `terms` products, and is off by at most as many roundings of the sum of their
    absolute values (Higham 2002, section 3.5); together these are at most `√size` times what is found.
    """
    return terms * math.sqrt(size)


def _symmetric(left: Tensor, right: Tensor) -> Tensor:
    """`left @ rightᵀ` of each of `[B, n, m]`, symmetric: five eighths are computed of large ones."""
    size = left.shape[1]
    if size < LARGE:
        return torch.bmm(left, right.transpose(1, 2))
    edges = range(0, size, -(-size // 4))
    product = left.new_empty(len(left), size, size)
    for begin, end in zip(edges, [*edges[1:], size], strict=True):
        rows = torch.bmm(left[:, begin:end], right[:, :end].transpose(1, 2))
        product[:, begin:end, :end] = rows
        product[:, :begin, begin:end] = rows[:, :, :begin].transpose(1, 2)
    return product


class _Schatten(torch.autograd.Function):
    """With N the matrix over its norm, the norm's gradient is `(NNᵀ)^(p/2 − 1) N`."""

    @staticmethod
    @full_precision()
    def forward(ctx: Any, matrices: Tensor, iterations: int) -> Tensor:
        tiny = torch.finfo(matrices.dtype).tiny
        sizes, powers = [], [matrices]  # powers[i] is (MMᵀ)^(2^(i − 1)), of Frobenius norm 1
        bound = matrices.new_ones(len(matrices))
        for power in range(iterations + 1):
            last = powers[-1]
            product = last if power == 0 else _symmetric(last, last)
            sizes.append(torch.linalg.vector_norm(product, dim=(1, 2)).clamp_min(tiny))
            scaled = product / sizes[-1].view(-1, 1, 1)
            powers = [scaled] if power == 0 else [*powers, scaled]
            bound = bound * sizes[-1] ** (0.5**power)
        ctx.save_for_backward(*powers, *sizes)
        return bound

    @staticmethod
    @once_differentiable
    @full_precision()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        all_of_them, one = ctx.saved_tensors, None
        if len(gradient) > 1:
            one = gradient.abs().argmax(0, keepdim=True)
            all_of_them = [tensor.index_select(0, one) for tensor in all_of_them]
        count = len(all_of_them) // 2
        powers, sizes = all_of_them[:count], all_of_them[count:]
        # The norm is Π sizes[i]^(1/2^i): what of it is not in powers[i] yet, to the power of 2^i.
        missing = [torch.ones_like(sizes[0])]
        for size in sizes[:0:-1]:
            missing.append((missing[-1] * size).sqrt())
        slopes = powers[0] / missing[-1].view(-1, 1, 1)
        if count > 1:
            product = powers[1] / missing[-2].view(-1, 1, 1)
            for power, rest in zip(powers[2:], missing[-3::-1], strict=True):
                product = _symmetric(product, (power / rest.view(-1, 1, 1)).transpose(1, 2))
            slopes = torch.bmm(product, slopes)
        if one is None:
            return slopes * gradient.view(-1, 1, 1), None
        slopes = slopes * gradient[one].view(-1, 1, 1)
        return slopes.new_zeros(len(gradient), *slopes.shape[1:]).index_copy_(0, one, slopes), None
