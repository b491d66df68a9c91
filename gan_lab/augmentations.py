"""Augmentations: what real and generated images pass through before the discriminator sees them.

See `gan_lab.training.gan.Augmentation` for their two methods.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NUMBERS = {"color": 3, "translation": 2, "cutout": 2}  # that each part takes for an image


class DiffAugment:
    """Differentiable augmentation (Zhao et al. 2020, arXiv 2006.10738), its parts in `policy`'s order.

    Drawn for each image, with `strength` t (theirs is 1; 0 changes no image):

    - color: brightness, ± t/2 on every pixel; saturation, channels times 1 ± t around their mean; contrast,
      pixels times 1 ± t/2 around the image's mean;
    - translation by whole pixels, up to t/8 of a side in each direction, zeros coming in;
    - cutout: zeros in a square of t/2 of a side, with its centre anywhere in the image.

    It is made of gathers and products, with the same result on every device but for the rounding of means.
    """

    def __init__(self, policy: Sequence[str] = tuple(NUMBERS), strength: float = 1.0) -> None:
        unknown = [part for part in policy if part not in NUMBERS]
        if unknown:
            raise ValueError(f"augment.policy has {unknown[0]}, which is none of {', '.join(NUMBERS)}")
        self.policy, self.strength = tuple(policy), strength

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Numbers in [0, 1), `[count, 7]` or as many as the policy's parts take."""
        return torch.rand(count, sum(NUMBERS[part] for part in self.policy), generator=rng)

    def __call__(self, images: Tensor, numbers: Tensor | None) -> Tensor:
        """Images `[B, 3, H, W]` augmented, differentiable in them."""
        assert numbers is not None
        start = 0
        for part in self.policy:
            u = numbers[:, start : start + NUMBERS[part]].view(len(images), -1, 1, 1, 1).unbind(1)
            images = getattr(self, f"_{part}")(images, *u)
            start += NUMBERS[part]
        return images

    # Each u is `[B, 1, 1, 1]` in [0, 1).

    def _color(self, images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
        # In this form a strength of 0 adds exact zeros.
        images = images + self.strength * (brightness - 0.5)
        grey = images.mean(1, keepdim=True)
        images = images + self.strength * (2 * saturation - 1) * (images - grey)
        mean = images.mean((1, 2, 3), keepdim=True)
        return images + self.strength * (contrast - 0.5) * (images - mean)

    def _translation(self, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        for dim, u in ((2, down), (3, right)):
            side = images.shape[dim]
            most = int(self.strength * side / 8 + 0.5)
            shift = (u * (2 * most + 1)).floor().long() - most
            source = _along(dim, side, images.device) - shift  # [B, 1, side, 1] or [B, 1, 1, side]
            # A permutation, so that no two pixels' gradients are added in an order that the device chooses.
            moved = images.gather(dim, (source % side).expand_as(images))
            images = moved * ((source >= 0) & (source < side))
        return images

    def _cutout(self, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        inside = torch.ones((), dtype=torch.bool, device=images.device)
        for dim, u in ((2, down), (3, right)):
            side = images.shape[dim]
            size = int(self.strength * side / 2 + 0.5)
            first = (u * (side + 1 - size % 2)).floor().long() - size // 2
            place = _along(dim, side, images.device)
            inside = inside & (place >= first) & (place < first + size)
        return images * ~inside


def _along(dim: int, side: int, device: torch.device) -> Tensor:
    """0, 1, ..., side - 1 along one axis of `[1, 1, H, W]`."""
    shape = [1, 1, 1, 1]
    shape[dim] = side
    return torch.arange(side, device=device).view(shape)
