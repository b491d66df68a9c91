"""The parametrization that divides a weight by its sigma."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_lab.kernels import as_rows
from gan_lab.norms.sigma import SigmaEstimator


class _Scaled(torch.autograd.Function):
    """`weight · factor`, a scalar, whose gradient is one inner product.

    Of `*` it would be the sum of an elementwise product, another tensor of the weight's size.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, factor: Tensor) -> Tensor:
        return weight * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weight, factor = ctx.saved_tensors
        return gradient * factor, torch.dot(as_rows(gradient).flatten(), as_rows(weight).flatten())


class SpectralNormalization(nn.Module):
    """`W ↦ s · W / σ(W)`, for `torch.nn.utils.parametrize`.

    `scale` is s: a number, or a parameter γ that is trained with the network.

    In training mode each evaluation of the weight first takes `n_power_iterations` steps; in eval mode, and
    inside `frozen`, nothing moves. Inside `torch.nn.utils.parametrize.cached()` the weight is evaluated, and
    the vectors moved, once for any number of passes. Sigma is computed in the weight's own precision, also
    under autocast.
    """

    def __init__(
        self, estimator: SigmaEstimator, scale: float | nn.Parameter = 1.0, n_power_iterations: int = 1
    ) -> None:
        super().__init__()
        self.estimator = estimator
        self.scale = scale
        self.n_power_iterations = n_power_iterations
        self.is_frozen = False

    @property
    def scale_value(self) -> float:
        """The scale as it stands, also where it is learned."""
        return self.scale.item() if isinstance(self.scale, Tensor) else self.scale

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight, of the shape of `weight`."""
        with torch.autocast(weight.device.type, enabled=False):
            if self.training and not self.is_frozen:
                for _ in range(self.n_power_iterations):
                    self.estimator.power_iterate(weight)
            return _Scaled.apply(weight, self.scale / self.estimator(weight))

    def right_inverse(self, effective: Tensor) -> Tensor:
        """What is stored when somebody assigns `layer.weight`: the value, to be normalized from then on."""
        return effective
