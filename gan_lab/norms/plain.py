"""Power iteration as the public code of Lin et al. 2021 takes it: plain, and stored after an update only.

A vector begins as a truncated normal. Every evaluation of a weight takes fresh iterations from the stored
vector, and stores nothing, so that all passes of an update see one sigma, whose gradient flows through both
singular vectors as well. After each update of the network the stored vector moves. Without a warm-up sigma is
too small in the first updates, and the weight too large.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gan_lab.device import full_precision
from gan_lab.norms.sigma import (
    LargestSingularValue,
    SigmaBidirectional,
    SigmaEstimator,
    SigmaIn,
    SigmaOperator,
    SigmaOut,
)


class _Plain(LargestSingularValue):
    """A largest singular value by `n_power_iterations` plain iterations in each evaluation."""

    n_power_iterations = 1
    starts_from_input = False  # whether the vector that is stored is an input of the map, not an output

    def singular_values(self) -> Sequence[LargestSingularValue]:
        return ()  # none to take together with other layers'

    def _start(self, weight: Tensor, shape: tuple[int, ...]) -> None:
        like = weight.detach().new_zeros(1, *shape[1:])
        if self.starts_from_input:
            like = self.adjoint(weight.detach(), like)
        drawn = nn.init.trunc_normal_(torch.empty(like.shape, dtype=like.dtype, device="cpu"))
        self.register_buffer("u", drawn.to(weight.device))

    def iterate(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The stored vector `[1, ...]` moved, a unit vector, and sigma; differentiable in the weight."""
        turn = -1 if self.starts_from_input else 1
        there, back = (self.adjoint, self.image)[::turn]
        u = self.u.clone()  # because it may move before a pass's backward
        with full_precision():
            for _ in range(self.n_power_iterations):
                stretched = back(weight, _unit(there(weight, u)))
                u = _unit(stretched)
        return u, (u * stretched).sum()

    @torch.no_grad()
    def power_iterate(self, weight: Tensor) -> None:
        self.u.copy_(self.iterate(weight)[0])

    after_update = power_iterate

    def estimate(self, weight: Tensor) -> Tensor:
        return self.iterate(weight)[1]

    def forward(self, weight: Tensor) -> Tensor:
        return self.estimate(weight)


class PlainSigmaOut(_Plain, SigmaOut):
    """`SigmaOut`, its stored vector `[c_out]`."""


class PlainSigmaIn(_Plain, SigmaIn):
    """`SigmaIn`, its stored vector `[c_in]`."""

    starts_from_input = True  # of the transposed matrix, which `SigmaIn` is made of


class PlainSigmaOperator(_Plain, SigmaOperator):
    """`SigmaOperator`, its stored vector an output of the layer; not in the public code."""


class PlainSigmaBidirectional(SigmaBidirectional):
    """`SigmaBidirectional` of plain halves."""

    def __init__(self, layer: nn.Module) -> None:
        SigmaEstimator.__init__(self)
        self.sigma_out = PlainSigmaOut(layer)
        self.sigma_in = PlainSigmaIn(layer)

    def singular_values(self) -> Sequence[LargestSingularValue]:
        return ()

    def power_iterate(self, weight: Tensor) -> None:
        self.sigma_out.power_iterate(weight)
        self.sigma_in.power_iterate(weight)

    after_update = power_iterate

    def forward(self, weight: Tensor) -> Tensor:
        return (self.sigma_out(weight) + self.sigma_in(weight)) / 2


KIN: dict[type[SigmaEstimator], type[SigmaEstimator]] = {
    SigmaOut: PlainSigmaOut,
    SigmaIn: PlainSigmaIn,
    SigmaBidirectional: PlainSigmaBidirectional,
    SigmaOperator: PlainSigmaOperator,
}


def plain(estimator: Callable[..., SigmaEstimator], n_power_iterations: int) -> Callable[..., SigmaEstimator]:
    """What makes the same sigma by so many plain iterations; raises ValueError where nothing does."""
    kind = getattr(estimator, "func", estimator)
    if kind not in KIN:
        name = getattr(kind, "__name__", kind)
        raise ValueError(f"{name} is not estimated by plain power iteration: take power_iteration=block")

    def make(layer: nn.Module, *input_size: tuple[int, ...]) -> SigmaEstimator:
        sigma = KIN[kind](layer, *input_size)
        for part in sigma.modules():
            if isinstance(part, _Plain):
                part.n_power_iterations = n_power_iterations
        return sigma

    return make


def _unit(x: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(x)
    return x / length.clamp_min(torch.finfo(x.dtype).tiny)
