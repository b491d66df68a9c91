"""The parametrization that divides a weight by its sigma: of one layer, or of many layers at once."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gan_lab.layers import KernelLayout, as_rows
from gan_lab.norms.power_iteration import power_iterate
from gan_lab.norms.sigma import LargestSingularValue, SigmaEstimator

Mode = Literal["divide", "clip"]


class SpectralNormalization(nn.Module):
    """`W ↦ s · W / σ(W)`, for `torch.nn.utils.parametrize`; with `mode="clip"` `W ↦ W / max(1, σ(W)/s)`.

    `scale` is s: a number, or a parameter γ that is trained with the network, a scalar or one number for each
    output filter `[c_out]`; it counts `gain` times. `layout` is the weight's.

    In training mode each evaluation of the weight first takes `n_power_iterations` steps; in eval mode, and
    inside `frozen`, nothing moves. Inside `torch.nn.utils.parametrize.cached()` the weight is made, and the
    vectors moved, once for any number of passes. Sigma is computed in the weight's own precision, also under
    autocast.
    """

    effective: Tensor | None = None  # the weight inside `cached_weights`

    def __init__(
        self,
        estimator: SigmaEstimator,
        scale: float | nn.Parameter = 1.0,
        n_power_iterations: int = 1,
        mode: Mode = "divide",
        gain: float = 1.0,
        layout: KernelLayout | None = None,
    ) -> None:
        super().__init__()
        self.estimator = estimator
        self.gain = gain if isinstance(scale, Tensor) else 1.0
        self.scale = scale if isinstance(scale, Tensor) else scale * gain
        self.n_power_iterations = n_power_iterations
        self.clips = mode == "clip"
        self.layout = layout or KernelLayout(False, 1)
        self.is_frozen = False

    @property
    def moves(self) -> bool:
        """Whether the next evaluation is an update's."""
        return self.training and not self.is_frozen

    @property
    def steps(self) -> int:
        """How many power iterations the next evaluation takes."""
        return self.n_power_iterations if self.moves else 0

    @property
    def only_scales(self) -> bool:
        """Whether the effective weight is the trained one times one number."""
        by_filter = self.estimator.per_filter or (isinstance(self.scale, Tensor) and self.scale.ndim > 0)
        return not by_filter and type(self.estimator).prepared is SigmaEstimator.prepared

    @property
    def is_plain(self) -> bool:
        """Whether it is `s·W/σ`, of a number s that counts once, which layers can make together."""
        return self.only_scales and self.gain == 1 and not self.clips

    def update(self, weight: Tensor) -> None:
        """What an update of the network does before it evaluates the weight; nothing else moves."""
        for _ in range(self.steps):
            self.estimator.power_iterate(weight)
        if self.moves:
            self.estimator.settle(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight, of the shape of `weight`."""
        if self.effective is not None:
            return self.effective
        with torch.autocast(weight.device.type, enabled=False):
            self.update(weight)
            return self.estimator.prepared(weight) * self.broadcast(self.factor(weight), weight.shape)

    def factor(self, weight: Tensor) -> Tensor:
        """What the weight is multiplied with as sigma stands, a scalar or `[c_out]`."""
        scale = self.scale if self.gain == 1 else self.gain * self.scale
        factor = scale / self.estimator(weight)
        return factor.clamp(max=1) if self.clips else factor

    def broadcast(self, factor: Tensor, shape: torch.Size) -> Tensor:
        """A factor as it multiplies a weight of this shape."""
        return self.layout.per_filter(factor, shape) if factor.ndim else factor

    def right_inverse(self, effective: Tensor) -> Tensor:
        """What is stored when somebody assigns `layer.weight`: the value, to be normalized from then on."""
        return effective


class ScaledBias(nn.Module):
    """`b ↦ γ·b`, γ the learned scale of the layer's weight (as in the public code of Lin et al. 2021)."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, bias: Tensor) -> Tensor:
        return bias * self.scale

    def right_inverse(self, effective: Tensor) -> Tensor:
        """What is stored when somebody assigns `layer.bias`: the value, to be scaled from then on."""
        return effective


def normalized_weights(norms: Sequence[SpectralNormalization], weights: Sequence[Tensor]) -> list[Tensor]:
    """The effective weights of many layers, the same that each norm makes by itself, in fewer operations.

    Of norms whose sigma is a mean of singular values, and weights on one device and of one precision. The
    gradient with respect to the weights can be taken once.
    """
    parts = [norm.estimator.singular_values() for norm in norms]
    with torch.autocast(weights[0].device.type, enabled=False):
        with torch.no_grad():
            found = _singular_values(norms, weights)
            sigmas = [sum(found[value] for value in values) / len(values) for values in parts]
        factors = [norm.scale / sigma for norm, sigma in zip(norms, sigmas, strict=True)]
        pairs = [
            [(value, *value.pair()) for value in values] if weight.requires_grad else []
            for values, weight in zip(parts, weights, strict=True)
        ]
        terms = list(zip(sigmas, pairs, strict=True))
        return list(_Scaled.apply(terms, *factors, *weights))


def _singular_values(
    norms: Sequence[SpectralNormalization], weights: Sequence[Tensor]
) -> dict[LargestSingularValue, Tensor]:
    """Sigma of each part of each estimator, after the power iterations that are due."""
    parts = [
        (value, weight, norm.steps)
        for norm, weight in zip(norms, weights, strict=True)
        for value in norm.estimator.singular_values()
    ]
    found = {value: value.estimate(weight) for value, weight, steps in parts if not steps}
    for step in range(max(steps for _, _, steps in parts)):
        due = [(value, weight) for value, weight, steps in parts if step < steps]
        found |= zip((value for value, _ in due), power_iterate(due), strict=True)
    return found


class _Scaled(torch.autograd.Function):
    """`f·W` of many layers, with the scalars `f = s/σ(W)`.

    With G the gradient with respect to `f·W`, that with respect to W is `f·(G − ⟨G, W⟩/σ · ∂σ/∂W)`; to f,
    which stands for s here, it is `⟨G, W⟩`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        terms: list[tuple[Tensor, list[tuple[LargestSingularValue, Tensor, Tensor]]]],
        *factors_and_weights: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.terms = terms
        ctx.save_for_backward(*factors_and_weights)
        count = len(terms)
        factors, weights = factors_and_weights[:count], factors_and_weights[count:]
        return tuple(weight * factor for factor, weight in zip(factors, weights, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(gradients)
        factors, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        of_factors: list[Tensor | None] = [None] * count
        of_weights: list[Tensor | None] = [None] * count
        for number, (gradient, (sigma, pairs)) in enumerate(zip(gradients, ctx.terms, strict=True)):
            if gradient is None:
                continue
            factor, weight = factors[number], weights[number]
            product = torch.dot(as_rows(gradient).flatten(), as_rows(weight).flatten())
            of_factors[number] = product
            if pairs:
                of_weights[number] = of_weight = gradient * factor
                share = product * factor / (sigma * len(pairs))
                for value, u, v in pairs:
                    of_weight -= value.weight_grad(share * u, v)
        return None, *of_factors, *of_weights
