"""The parametrization that divides a weight by its sigma: of one layer, or of many layers at once."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gan_lab.device import full_precision
from gan_lab.layers import KernelLayout, as_rows
from gan_lab.norms.power_iteration import Iterates, power_iterate
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
        """Whether s is a number that counts once, so that layers can make their weights together."""
        return self.only_scales and self.gain == 1

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


class PackedNorms(nn.Module):
    """Several matrices below each other in one tensor, each under a norm of its own, or as it is."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)

    def forward(self, weight: Tensor) -> Tensor:
        parts = weight.chunk(len(self.norms))
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)])

    def right_inverse(self, effective: Tensor) -> Tensor:
        """What is stored when somebody assigns the tensor: the value, to be normalized from then on."""
        return effective


OURS = (SpectralNormalization, ScaledBias, PackedNorms)


def iterate_together(norms: Sequence[SpectralNormalization], weights: Sequence[Tensor]) -> Iterates:
    """What an update's power iterations find of many layers, taken together; no gradient belongs to it.

    Of norms whose sigma is a mean of equally many singular values, which now take equally many steps; weights
    on one device, of one precision, and with a gradient all or none.
    """
    parts = [norm.estimator.singular_values() for norm in norms]
    maps = [(value, weight) for values, weight in zip(parts, weights, strict=True) for value in values]
    with torch.autocast(weights[0].device.type, enabled=False):
        found = _as_they_stand(maps) if norms[0].steps == 0 else power_iterate(maps)
        for _ in range(1, norms[0].steps):
            found = power_iterate(maps)
    return found


def normalized_weights(
    norms: Sequence[SpectralNormalization], weights: Sequence[Tensor], found: Iterates
) -> list[Tensor]:
    """The effective weights of many layers, the same that each norm makes by itself, in fewer operations.

    By what `iterate_together` has found of them; of norms which all clip or none. It can be taken once.
    """
    learned = [norm.scale for norm in norms if isinstance(norm.scale, Tensor)]
    with torch.autocast(weights[0].device.type, enabled=False):
        # The last layer's first: in this order autograd sums the gradients of a scale that layers share.
        return list(_Scaled.apply(norms, found, *reversed(learned), *weights))


@torch.no_grad()
@full_precision()  # as in a step
def _as_they_stand(maps: Sequence[tuple[LargestSingularValue, Tensor]]) -> Iterates:
    """What the maps' vectors give without a step; copies of these only where a gradient will need them."""
    is_needed = maps[0][1].requires_grad
    pairs = [value.pair() if is_needed else (value.u[:1], value.v[:1]) for value, _ in maps]
    us, vs = [u for u, _ in pairs], [v for _, v in pairs]
    images = [value.image(weight, v) for (value, weight), v in zip(maps, vs, strict=True)]
    return Iterates(torch.stack([each.sum() for each in torch._foreach_mul(us, images)]), us, vs)


def _factors(scales: Sequence[float | Tensor], sigmas: Tensor) -> Tensor:
    """`s/σ` of each layer, `[L]`."""
    if all(isinstance(scale, Tensor) for scale in scales):
        return torch.stack(list(scales)) / sigmas  # type: ignore[arg-type]
    if len(set(scales)) == 1:
        return scales[0] / sigmas
    return torch.stack([scale / sigma for scale, sigma in zip(scales, sigmas.unbind(), strict=True)])


class _Scaled(torch.autograd.Function):
    """`f·W` of many layers, with the scalars `f = s/σ(W)`, at most 1 where the norms clip.

    With G the gradient with respect to `f·W`, that with respect to W is `f·(G − ⟨G, W⟩/σ · ∂σ/∂W)`, and that
    with respect to a learned s is `⟨G, W⟩/σ`. `learned` are these, the last layer's first.
    """

    @staticmethod
    def forward(
        ctx: Any, norms: Sequence[SpectralNormalization], found: Iterates, *learned_and_weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        weights = learned_and_weights[-len(norms) :]
        of_parts = found.sigmas.view(len(norms), -1).unbind(1)
        sigmas = of_parts[0] if len(of_parts) == 1 else torch.stack(of_parts).mean(0)
        factors = _factors([norm.scale for norm in norms], sigmas)
        ctx.is_divided = None
        if norms[0].clips:
            ctx.is_divided, factors = factors < 1, factors.clamp(max=1)
        values = [value for norm in norms for value in norm.estimator.singular_values()]
        ctx.pairs = list(zip(values, found.u, found.v, strict=True)) if weights[0].requires_grad else []
        ctx.is_learned = [isinstance(norm.scale, Tensor) for norm in norms]
        ctx.save_for_backward(sigmas, factors, *weights)
        return tuple(torch._foreach_mul(weights, factors.unbind()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        def used(of_layers: Iterable[Any]) -> list[Any]:
            """Those of the layers that have a gradient."""
            return [one for one, gradient in zip(of_layers, gradients, strict=True) if gradient is not None]

        if not used(gradients):
            return (None,) * len(ctx.needs_input_grad)
        sigmas, factors, *weights = ctx.saved_tensors
        products = torch.stack(
            [
                sigmas.new_zeros(())
                if gradient is None
                else torch.dot(as_rows(gradient).flatten(), as_rows(weight).flatten())
                for gradient, weight in zip(gradients, weights, strict=True)
            ]
        )
        if ctx.is_divided is not None:  # elsewhere the effective weight is the weight
            products = products * ctx.is_divided
        of_learned: list[Tensor | None] = []
        if any(ctx.is_learned):
            of_scales = zip((products / sigmas).unbind(), gradients, ctx.is_learned, strict=True)
            of_learned = [
                None if gradient is None else one for one, gradient, learned in of_scales if learned
            ]
        of_weights: Iterator[Tensor | None] = iter(())
        if ctx.pairs:
            parts = len(ctx.pairs) // len(weights)
            shares = used((products * factors / (sigmas * parts)).unbind())
            found = torch._foreach_mul(used(gradients), used(factors.unbind()))
            for part in range(parts):
                pairs = used(ctx.pairs[part::parts])
                us = torch._foreach_mul([u[:1] for _, u, _ in pairs], shares)
                torch._foreach_sub_(
                    found, [value.weight_grad(u, v[:1]) for (value, _, v), u in zip(pairs, us, strict=True)]
                )
            of_weights = iter(found)
        gradients_of_weights = [
            None if gradient is None else next(of_weights, None) for gradient in gradients
        ]
        return None, None, *reversed(of_learned), *gradients_of_weights
