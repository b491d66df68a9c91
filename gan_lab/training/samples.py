"""What a generator makes of fixed latents."""

import torch
from torch import Tensor, nn

from gan_lab.data import to_pixels
from gan_lab.device import upload
from gan_lab.rng import seed_of


def generate(
    generator: nn.Module,
    latent_dim: int,
    seed: int,
    purpose: str,
    start: int,
    stop: int,
    labels: Tensor | None = None,
) -> Tensor:
    """The images with these numbers, uint8 `[stop - start, 3, H, W]`, of the classes `labels` if any.

    Image k's latents are a function of (seed, purpose, k). The generator runs in eval mode; its state is as
    before.
    """
    if stop <= start:
        raise ValueError(f"no images from {start} to {stop}")
    latents = draw_latents(latent_dim, seed, purpose, start, stop)
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    with torch.no_grad():
        classes = () if labels is None else (labels.to(device),)
        images = to_pixels(generator(upload(latents, device), *classes))
    generator.train(was_training)
    return images


def draw_latents(latent_dim: int, seed: int, purpose: str, start: int, stop: int) -> Tensor:
    """The latents `[stop - start, latent_dim]` of the images with these numbers, on the host.

    Each row has a stream of its own, so that an image is the same whatever batch or rank makes it.
    """
    rows, rng = torch.empty(stop - start, latent_dim), torch.Generator()
    for row, number in zip(rows, range(start, stop), strict=True):
        torch.randn(latent_dim, generator=rng.manual_seed(seed_of(seed, purpose, number)), out=row)
    return rows
