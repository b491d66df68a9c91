"""Penalties on the slope `‖∇_x D(x)‖` of the discriminator, added to its loss.

Each is called with the discriminator (`[B, 3, H, W]` to `[B]`), a batch of real and one of fake images and a
random generator on their device, and returns a scalar that is differentiable in the discriminator's weights.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gan_lab.distributed import collectives, env

Score = Callable[[Tensor], Tensor]


class GradientPenalty:
    """`coefficient · E[(‖∇_x D(x)‖ − 1)²]` between real and fake images (Gulrajani et al. 2017, equation 3).

    Each x is drawn uniformly from the line between a real image and the fake one at its place in the batch.
    """

    def __init__(self, coefficient: float = 10.0) -> None:
        self.coefficient = coefficient

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        count = len(real) * env.world_size()  # the ranks' generators are in one state
        mix = torch.rand(count, 1, 1, 1, generator=rng, device=real.device, dtype=real.dtype)
        mixed = torch.lerp(real, fake, collectives.local_shard(mix))
        slopes = _gradients(discriminator, mixed).norm(dim=1)
        return self.coefficient * (slopes - 1).square().mean()


class R1:
    """`coefficient / 2 · E[‖∇_x D(x)‖²]` on real images (Mescheder et al. 2018, equation 9)."""

    def __init__(self, coefficient: float = 10.0) -> None:
        self.coefficient = coefficient

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        return self.coefficient / 2 * _gradients(discriminator, real).square().sum(dim=1).mean()


def _gradients(discriminator: Score, images: Tensor) -> Tensor:
    """∇_x D(x) of each image, `[B, 3·H·W]`, differentiable once more; a score depends on its image alone."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradients.flatten(1)
