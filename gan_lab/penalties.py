"""Penalties on the slope `‖∇_x D(x)‖` of the discriminator, added to its loss.

Each has two methods. `draw(count, rng)` gives the random numbers for a batch of `count` images, drawn on the
host (None where it needs none). A call with the discriminator (`[B, 3, H, W]` to `[B]`), a batch of real and
one of generated images, and these numbers returns a scalar that is differentiable in the discriminator's
weights.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


class GradientPenalty:
    """`coefficient · E[(‖∇_x D(x)‖ − 1)²]` between real and fake images (Gulrajani et al. 2017, equation 3).

    Each x is drawn uniformly from the line between a real image and the fake one at its place in the batch.
    """

    def __init__(self, coefficient: float = 10.0) -> None:
        self.coefficient = coefficient

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """The places on the lines, `[count, 1, 1, 1]` in [0, 1)."""
        return torch.rand(count, 1, 1, 1, generator=rng)

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, mix: Tensor | None) -> Tensor:
        assert mix is not None
        slopes = _gradients(discriminator, torch.lerp(real, fake, mix)).norm(dim=1)
        return self.coefficient * (slopes - 1).square().mean()


class R1:
    """`coefficient / 2 · E[‖∇_x D(x)‖²]` on real images (Mescheder et al. 2018, equation 9)."""

    def __init__(self, coefficient: float = 10.0) -> None:
        self.coefficient = coefficient

    def draw(self, count: int, rng: torch.Generator) -> None:
        """It needs no random numbers."""

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, noise: Tensor | None) -> Tensor:
        return self.coefficient / 2 * _gradients(discriminator, real).square().sum(dim=1).mean()


def _gradients(discriminator: Score, images: Tensor) -> Tensor:
    """∇_x D(x) of each image, `[B, 3·H·W]`, differentiable once more; a score depends on its image only."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradients.flatten(1)
