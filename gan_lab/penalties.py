"""Penalties added to the discriminator's loss: on the slope `‖∇_x D(x)‖` of its scores, or on its weights.

Each has two methods. `draw(count, rng)` gives the random numbers for a batch of `count` images, drawn on the
host (None where it needs none). A call with the discriminator (`[B, 3, H, W]` to `[B]`), a batch of real and
one of generated images, and these numbers returns a scalar that is differentiable in the discriminator's
weights. One whose `of_weights` is true is called with the network itself as the discriminator.

One with an attribute `every` is called in every so many iterations only; those on slopes then count so many
times as much, which is the same on average (lazy regularization: Karras et al. 2020, arXiv 1912.04958,
appendix B; their Adam is adapted because the penalty has a step of its own, and here it has none).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_lab.distributed import collectives
from gan_lab.layers import KernelLayout, weighted_layers
from gan_lab.norms import trained_weight

Score = Callable[[Tensor], Tensor]


class OfSlopes:
    """What penalties on slopes share: their numbers."""

    def __init__(self, coefficient: float = 10.0, every: int = 1) -> None:
        self.coefficient, self.every = coefficient, every

    @property
    def weight(self) -> float:
        """What the penalty is multiplied by where it is paid."""
        return self.coefficient * self.every

    def draw(self, count: int, rng: torch.Generator) -> Tensor | None:
        """It needs no random numbers."""
        return None


class GradientPenalty(OfSlopes):
    """`coefficient · E[(‖∇_x D(x)‖ − 1)²]` between real and fake images (Gulrajani et al. 2017, equation 3).

    Each x is drawn uniformly from the line between a real image and the fake one at its place in the batch.
    """

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """The places on the lines, `[count, 1, 1, 1]` in [0, 1)."""
        return torch.rand(count, 1, 1, 1, generator=rng)

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, mix: Tensor | None) -> Tensor:
        assert mix is not None
        return self.weight * _distance_from_one(discriminator, torch.lerp(real, fake, mix))


class DRAGAN(OfSlopes):
    """`coefficient · E[(‖∇_x D(x)‖ − 1)²]` around real images (Kodali et al. 2017, arXiv 1705.07215).

    Each x is a real image with uniform noise on every pixel, in ±1/2 standard deviations of all the batch's
    pixels, cut off at [-1, 1], as in compare_gan's public code.
    """

    def __init__(self, image_size: int, coefficient: float = 10.0, every: int = 1) -> None:
        super().__init__(coefficient, every)
        self.image_size = image_size

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """The noise, `[count, 3, image_size, image_size]` in [0, 1)."""
        return torch.rand(count, 3, self.image_size, self.image_size, generator=rng)

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        real = real.detach()
        mean = collectives.mean(real.mean())
        deviation = collectives.mean((real - mean).square().mean()).sqrt()
        near = (real + deviation * (noise - 0.5)).clamp(-1, 1)
        return self.weight * _distance_from_one(discriminator, near)


class R1(OfSlopes):
    """`coefficient / 2 · E[‖∇_x D(x)‖²]` on real images (Mescheder et al. 2018, equation 9)."""

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, noise: Tensor | None) -> Tensor:
        return self.weight / 2 * _squared(discriminator, real)


class R2(OfSlopes):
    """`coefficient / 2 · E[‖∇_x D(x)‖²]` on generated images (Mescheder et al. 2018, equation 10)."""

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, noise: Tensor | None) -> Tensor:
        return self.weight / 2 * _squared(discriminator, fake)


class R1R2(OfSlopes):
    """R1 and R2 with one coefficient (R3GAN: Huang et al. 2024, arXiv 2501.05441)."""

    def __call__(self, discriminator: Score, real: Tensor, fake: Tensor, noise: Tensor | None) -> Tensor:
        return self.weight / 2 * (_squared(discriminator, real) + _squared(discriminator, fake))


class Orthogonal:
    """`coefficient · Σ ‖W Wᵀ ⊙ (1 − I)‖²` over the layers (Brock et al. 2019, arXiv 1809.11096, equation 3).

    W is a trained weight, before its norm if it has one, as `[c_out, c_in·kh·kw]`: filters are to be
    orthogonal, and may be of any size. The filters of different groups, which share no input, are.
    """

    of_weights = True

    def __init__(self, coefficient: float = 1e-4) -> None:
        self.coefficient = coefficient

    def draw(self, count: int, rng: torch.Generator) -> None:
        """It needs no random numbers."""

    def __call__(self, discriminator: nn.Module, real: Tensor, fake: Tensor, noise: Tensor | None) -> Tensor:
        terms = []
        for _, layer in weighted_layers(discriminator):
            filters = KernelLayout.of(layer).blocks(trained_weight(layer)).flatten(2)
            products = filters @ filters.mT  # [groups, c_out / groups, c_out / groups]
            # A difference of the two sums would lose its digits where filters are nearly orthogonal.
            terms.append((products - products.diagonal(dim1=1, dim2=2).diag_embed()).square().sum())
        return self.coefficient * torch.stack(terms).sum()


def _distance_from_one(discriminator: Score, images: Tensor) -> Tensor:
    return (_gradients(discriminator, images).norm(dim=1) - 1).square().mean()


def _squared(discriminator: Score, images: Tensor) -> Tensor:
    return _gradients(discriminator, images).square().sum(dim=1).mean()


def _gradients(discriminator: Score, images: Tensor) -> Tensor:
    """∇_x D(x) of each image, `[B, 3·H·W]`, differentiable once more; a score depends on its image only."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradients.flatten(1)
