"""What is measured inside a step, to see why a norm trains well: gradients, slopes, variances, sigmas.

Each function but `is_finite` returns `{metric name: scalar tensor}`; only it and `audited` make the host wait
for the device.
"""

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gan_lab.archs.initialization import target_variances
from gan_lab.distributed import collectives
from gan_lab.layers import fans, weighted_layers
from gan_lab.norms import remove, sigmas, trained_weight
from gan_lab.norms.audit import audit
from gan_lab.norms.bounds import PatchNorms, gradient_bounds

__all__ = ["audited", "curvature", "gradient_norms", "is_finite", "sigmas", "slopes", "weight_variances"]

log = logging.getLogger(__name__)


def is_finite(*networks: nn.Module) -> bool:
    """Whether all weights are finite; this synchronizes."""
    parameters = [parameter.detach() for network in networks for parameter in network.parameters()]
    return bool(torch.stack(torch._foreach_norm(parameters, ord=math.inf)).max().isfinite())


def gradient_norms(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Frobenius norms of the gradients that the last backward pass left.

    `grad_norm/<prefix>` over all parameters together, `grad_norm/<prefix>/<layer>` of each layer's weight,
    with respect to the parameter that the optimizer moves (before the norm, where there is one).
    """
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    values = {f"grad_norm/{prefix}": torch.nn.utils.get_total_norm(gradients)}
    for name, layer in weighted_layers(network):
        weight = trained_weight(layer)
        if weight.is_leaf and weight.grad is not None:
            values[f"grad_norm/{prefix}/{name}"] = torch.linalg.vector_norm(weight.grad)
    return values


def slopes(scores: Sequence[Tensor], images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`‖∇_x D(x)‖` over the ranks' images of each kind: `slope/<kind>_mean`, `_min`, `_max`.

    `scores`, `[B]` of each pass, were computed from all `images`, `[B, 3, H, W]` by their kinds, each from
    its own image, with the graph kept: so one pass backwards gives all gradients.
    """
    total = torch.cat(list(scores)).sum()
    gradients = torch.autograd.grad(total, list(images.values()), retain_graph=True)
    values: dict[str, Tensor] = {}
    for kind, gradient in zip(images, gradients, strict=True):
        norms = collectives.gather(gradient.flatten(1).norm(dim=1))
        values |= {
            f"slope/{kind}_mean": norms.mean(),
            f"slope/{kind}_min": norms.min(),
            f"slope/{kind}_max": norms.max(),
        }
    return values


@torch.no_grad()
def weight_variances(network: nn.Module) -> dict[str, Tensor]:
    """The variance of each layer's effective weight, and what three initializations aim at.

    `weight_var/<layer>` next to `weight_var_lecun/`, `_xavier/` and `_kaiming/<layer>`, and its ratio to
    LeCun's, `weight_var_ratio/<layer>` (Lin et al. 2021: SN keeps the variance near LeCun's
    `1/fan_in`). And the size `‖W‖` of the weight that is trained, `trained_norm/<layer>`: under a norm it
    grows, and its gradient falls as it does.
    """
    values = {}
    for name, layer in weighted_layers(network):
        assert isinstance(layer.weight, Tensor)
        values[f"trained_norm/{name}"] = torch.linalg.vector_norm(trained_weight(layer))
        values[f"weight_var/{name}"] = layer.weight.var(correction=0)
        targets = target_variances(*fans(layer))
        values[f"weight_var_ratio/{name}"] = values[f"weight_var/{name}"] / targets["lecun"]
        for rule, target in targets.items():
            values[f"weight_var_{rule}/{name}"] = torch.full_like(values[f"weight_var/{name}"], target)
    return values


def curvature(
    network: nn.Module, loss: Callable[[nn.Module], Tensor], iterations: int = 10
) -> dict[str, Tensor]:
    """`curvature/d`: `‖H_w‖`, H_w the Hessian of a loss by the effective weights and the biases.

    `loss` computes it from a network. By power iteration on Hessian-vector products, so from below. Lin et
    al. 2021 bound it under SN in their supplement. Nothing, with a word in the log, where PyTorch cannot
    differentiate the loss twice.
    """
    twin = copy.deepcopy(network)
    remove(twin)
    weights = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    rng = torch.Generator().manual_seed(0)
    vectors = [torch.randn(weight.shape, generator=rng).to(weight) for weight in weights]
    try:
        slopes = torch.autograd.grad(loss(twin), weights, create_graph=True, materialize_grads=True)
        for _ in range(iterations):
            length = torch.nn.utils.get_total_norm(vectors)
            along = [(one * vector).sum() for one, vector in zip(slopes, vectors, strict=True)]
            slope = torch.stack(along).sum() / length
            if not slope.requires_grad:
                return {"curvature/d": torch.zeros_like(length)}  # the loss is linear
            products = torch.autograd.grad(slope, weights, retain_graph=True, materialize_grads=True)
            vectors = [collectives.mean(product) for product in products]
            size = torch.nn.utils.get_total_norm(vectors)
            if not size:
                break  # a piece of the network where the loss is flat
    except RuntimeError as error:
        log.warning("no curvature: %s", error)
        return {}
    return {"curvature/d": size}


def audited(
    network: nn.Module,
    image: Tensor,
    patches: PatchNorms,
    score_gradients: Sequence[Tensor] | None,
    *labels: Tensor,
) -> dict[str, Tensor]:
    """The exact singular values of each layer, and what follows from them.

    `sigma_exact/<layer>` next to the estimate, its `sigma_error/<layer>` (relative); of the effective weight
    `operator_norm/<layer>`, and of its spectrum `stable_rank/`, `effective_rank/` and
    `spectrum_median/<layer>`; `operator_norm_spread/d`, the largest of the layers' operator norms over the
    least; `lipschitz/d` of the whole network, and `grad_bound/d/<layer>`, which `grad_norm/d/<layer>` cannot
    exceed. `image` is `[1, 3, H, W]`, `labels` its class where the network takes one; see
    `gan_lab.norms.bounds` for `patches` and `score_gradients`, without which there are no bounds. What cannot
    be had is left out, with a word.
    """
    try:
        exact = audit(network, image, *labels)
    except ValueError as error:
        log.warning("no audit: %s", error)
        return {}
    values: dict[str, float] = {}
    for row in exact.layers:
        values[f"operator_norm/{row.layer}"] = row.operator_norm
        values[f"stable_rank/{row.layer}"] = row.spectrum.stable_rank
        values[f"effective_rank/{row.layer}"] = row.spectrum.effective_rank
        values[f"spectrum_median/{row.layer}"] = row.spectrum.median
        if row.exact is not None and row.relative_error is not None:
            values[f"sigma_exact/{row.layer}"] = row.exact
            values[f"sigma_error/{row.layer}"] = row.relative_error
    norms = [row.operator_norm for row in exact.layers]
    if min(norms) > 0:
        values["operator_norm_spread/d"] = max(norms) / min(norms)
    if exact.lipschitz is not None:
        values["lipschitz/d"] = exact.lipschitz
    tensors = {name: image.new_tensor(value) for name, value in values.items()}
    if exact.lipschitz is None:
        log.warning("no gradient bounds: %s", exact.lipschitz_unknown)
        return tensors
    if score_gradients is None:
        return tensors
    try:
        # Each is a sum over a rank's images of shares of its mean loss; the mean loss of all has the mean.
        return tensors | collectives.average(gradient_bounds(network, exact, patches, score_gradients))
    except ValueError as error:
        log.warning("no gradient bounds: %s", error)
        return tensors
