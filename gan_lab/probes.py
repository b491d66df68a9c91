"""What is measured inside a step, to see why a norm trains well: gradients, slopes, variances, sigmas.

Each function returns `{metric name: scalar tensor}` on the networks' device; nothing here synchronizes.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_lab.archs.initialization import target_variances
from gan_lab.kernels import fans, weighted_layers
from gan_lab.norms import sigmas

__all__ = ["gradient_norms", "sigmas", "slopes", "weight_variances"]


def _trained_weight(layer: nn.Module) -> Tensor:
    """The parameter that the optimizer moves: the weight before its norm."""
    if parametrize.is_parametrized(layer, "weight"):
        weight = layer.parametrizations.weight.original  # type: ignore[union-attr]
    else:
        weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def gradient_norms(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Frobenius norms of the gradients that the last backward pass left.

    `grad_norm/<prefix>` over all parameters together, `grad_norm/<prefix>/<layer>` of each layer's weight, with
    respect to the parameter that the optimizer moves (before the norm, where there is one).
    """
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    values = {f"grad_norm/{prefix}": torch.nn.utils.get_total_norm(gradients)}
    for name, layer in weighted_layers(network):
        gradient = _trained_weight(layer).grad
        if gradient is not None:
            values[f"grad_norm/{prefix}/{name}"] = torch.linalg.vector_norm(gradient)
    return values


def slopes(scores: Tensor, images: Tensor, kind: str) -> dict[str, Tensor]:
    """`‖∇_x D(x)‖` over a batch: `slope/<kind>_mean`, `_min`, `_max`.

    `scores` `[B]` were computed from `images` `[B, 3, H, W]`, each from its own image, with the graph kept.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, retain_graph=True)
    norms = gradient.flatten(1).norm(dim=1)
    return {
        f"slope/{kind}_mean": norms.mean(),
        f"slope/{kind}_min": norms.min(),
        f"slope/{kind}_max": norms.max(),
    }


@torch.no_grad()
def weight_variances(network: nn.Module) -> dict[str, Tensor]:
    """The variance of each layer's effective weight, and what three initializations aim at.

    `weight_var/<layer>` beside `weight_var_lecun/`, `_xavier/` and `_kaiming/<layer>` (Lin et al. 2021,
    section 4: SN keeps the variance near LeCun's `1/fan_in`).
    """
    values = {}
    for name, layer in weighted_layers(network):
        assert isinstance(layer.weight, Tensor)
        values[f"weight_var/{name}"] = layer.weight.var(correction=0)
        for rule, target in target_variances(*fans(layer)).items():
            values[f"weight_var_{rule}/{name}"] = torch.full_like(values[f"weight_var/{name}"], target)
    return values
