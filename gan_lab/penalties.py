"""Penalties on the slope `‖∇_x D(x)‖` of the discriminator, added to its loss.

Each is called with the discriminator (`[B, 3, H, W]` to `[B]`), a batch of real and one of fake images and a
random generator on their device, and returns a scalar that is differentiable in the discriminator's weights.
"""

import torch
from torch import Tensor, nn


class GradientPenalty:
    """`coefficient · E[(‖∇_x D(x)‖ − 1)²]` between real and fake images (Gulrajani et al. 2017, equation 3).

    Each x is drawn uniformly from the line between a real image and the fake one at its place in the batch.
    """

    def __init__(self, coefficient: float = 10.0) -> None:
        self.coefficient = coefficient

    def __call__(self, discriminator: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        mix = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device, dtype=real.dtype)
        slopes = _gradients(discriminator, torch.lerp(real, fake, mix)).norm(dim=1)
        return self.coefficient * (slopes - 1).square().mean()


class R1:
    """`coefficient / 2 · E[‖∇_x D(x)‖²]` on real images (Mescheder et al. 2018, equation 9)."""

    def __init__(self, coefficient: float = 10.0) -> None:
        self.coefficient = coefficient

    def __call__(self, discriminator: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        return self.coefficient / 2 * _gradients(discriminator, real).square().sum(dim=1).mean()


def _gradients(discriminator: nn.Module, images: Tensor) -> Tensor:
    """∇_x D(x) of each image, `[B, 3·H·W]`, differentiable once more; a score depends on its image alone."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradients.flatten(1)
