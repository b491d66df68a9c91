"""Upper bounds on the discriminator's gradient norms, layer by layer, from a batch's activations.

`docs/theory.md` derives them: the bound of Lin et al. 2021 with the batch's own activations in
the place of the input's norm, and the norms of the layers' operators. Assumptions, none of them about the
biases' size or the loss's form:

- the network is a composition of the modules that `gan_lab.norms.lipschitz` knows, in sums and in chains,
  each weighted layer used once in a pass; biases may be there and may be large: activations are measured;
- each activation has slopes in [-1, 1] (or the constant that its rule states);
- the loss depends on the weights through the scores only (no gradient penalty), each score on its own image
  only (no batch norm in training mode);
- sigma is homogeneous in the weight, `σ(cW) = c σ(W)`, while its vectors are held fixed, as they are for
  autograd.
"""

import math
from collections.abc import Callable, Sequence
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan_lab.layers import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, weighted_layers
from gan_lab.norms.apply import normalized_layers, trained_weight
from gan_lab.norms.audit import Audit
from gan_lab.norms.gradient import GradientNormalized
from gan_lab.norms.lipschitz import gains_after
from gan_lab.norms.parametrization import SpectralNormalization
from gan_lab.norms.stable_rank import SigmaStableRank


class PatchNorms:
    """While entered, records for each layer and pass the norm of what the layer's weight is multiplied with.

    For a convolution that is `‖unfold(h)‖_F` of each image's input h: every pixel counted as often as the
    kernel meets it. `passes[layer]` is a list of `[B]`, one for each pass. Without a network nothing is
    recorded.
    """

    def __init__(self, network: nn.Module | None) -> None:
        self._layers = [layer for _, layer in weighted_layers(network)] if network else []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.passes: dict[nn.Module, list[Tensor]] = {}

    def __enter__(self) -> "PatchNorms":
        for layer in self._layers:
            self._handles.append(layer.register_forward_pre_hook(self._record))
        return self

    @torch.no_grad()
    def _record(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.passes.setdefault(layer, []).append(_patch_norms(layer, inputs[0].detach()))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()


def _patch_norms(layer: nn.Module, inputs: Tensor) -> Tensor:
    """`[B]`, see PatchNorms; for a transposed convolution the bound `√(kh·kw) ‖h‖`."""
    squares = inputs.double().square()
    if isinstance(layer, TRANSPOSED_CONVOLUTIONS):
        return (squares.flatten(1).sum(1) * math.prod(layer.kernel_size)).sqrt()
    if not isinstance(layer, CONVOLUTIONS):
        return squares.flatten(1).sum(1).sqrt()
    convolve: Callable[..., Tensor] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[inputs.ndim]
    ones = squares.new_ones(1, 1, *layer.kernel_size)
    energy = squares.sum(1, keepdim=True)
    padded = convolve(energy, ones, stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
    return padded.flatten(1).sum(1).sqrt()


def gradient_bounds(
    network: nn.Module, exact: Audit, patches: PatchNorms, score_gradients: Sequence[Tensor]
) -> dict[str, Tensor]:
    """`{"grad_bound/d/<layer>": bound}` on the norm of the loss's gradient by each layer's trained weight.

    `score_gradients` are the loss's derivatives with respect to the scores, `[B]` for each recorded pass.

    With c_b those derivatives, X_b the recorded patch norms, g the gain from the layer's output to the score:
    `‖∂L/∂W̄‖_F ≤ g Σ_b |c_b| X_b` for the effective weight W̄, times `weight_factor` for the trained one.
    Layers inside a module that states only its constant have none. Raises ValueError where a module's
    constant is not known, or an assumption above does not hold.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in network.modules()):
        raise ValueError("batch norm in training mode makes a score depend on other images")
    if isinstance(network, GradientNormalized):
        raise ValueError("gradient normalization makes a score depend on the weights through its slope, too")
    operator_norms = {
        layer: row.operator_norm
        for (_, layer), row in zip(weighted_layers(network), exact.layers, strict=True)
    }
    gains = dict(gains_after(network, operator_norms))
    factors = {
        layer: weight_factor(norm, trained_weight(layer)) for _, layer, norm in normalized_layers(network)
    }
    values = {}
    for name, layer in weighted_layers(network):
        if layer not in gains:
            continue
        passes = patches.passes.get(layer, [])
        if len(passes) != len(score_gradients):
            raise ValueError(f"layer {name} is used {len(passes)} times in {len(score_gradients)} passes")
        weighted = [
            (c.double().abs() * norms).sum() for c, norms in zip(score_gradients, passes, strict=True)
        ]
        values[f"grad_bound/d/{name}"] = torch.stack(weighted).sum() * gains[layer] * factors.get(layer, 1.0)
    return values


def weight_factor(norm: SpectralNormalization, weight: Tensor) -> float:
    """How much longer the gradient can be with respect to the trained weight W than to the effective one.

    Of `f W`, `f = s/σ`: `∂L/∂W = f (I − P) ∂L/∂W̄` with the oblique projection `P G = ⟨G, W/σ⟩ S`,
    S = ∂σ/∂W; a projection and its complement have the same norm, `‖W‖_F ‖S‖_F / σ`. Where sigma is one for
    each filter, filter by filter; where a weight is not clipped, f = 1 and P = 0. Where the stable rank is
    brought down, see `docs/theory.md`.
    """
    weight = weight.detach()
    with torch.enable_grad():
        variable = weight.clone().requires_grad_()
        sigma = norm.estimator(variable)
        (slope,) = torch.autograd.grad(sigma.sum(), variable)
    factor, sigma = norm.factor(weight).detach(), sigma.detach()
    is_divided = factor < 1 if norm.clips else torch.ones_like(factor, dtype=torch.bool)
    if isinstance(norm.estimator, SigmaStableRank):
        shrinkage = norm.estimator.shrinkage(weight)
        if shrinkage < 1:
            if is_divided.all():
                return factor.abs().max().item() * shrinkage
            return factor.abs().max().item() * math.sqrt(norm.estimator.stable_rank)
    by_filter = [norm.layout.kernel(one).flatten(1) for one in (weight, slope)]
    length, steepness = [one.norm(dim=1) if sigma.ndim else one.norm() for one in by_filter]
    obliqueness = (length * steepness / sigma).abs().clamp_min(1)
    return (factor.abs() * torch.where(is_divided, obliqueness, 1.0)).max().item()
