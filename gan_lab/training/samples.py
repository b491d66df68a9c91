"""What a generator makes of fixed latents."""

import torch
from torch import Tensor, nn

from gan_lab.data import to_pixels
from gan_lab.device import upload
from gan_lab.rng import stream


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
    rows = [torch.randn(latent_dim, generator=stream(seed, purpose, number)) for number in range(start, stop)]
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    with torch.no_grad():
        classes = () if labels is None else (labels.to(device),)
        images = to_pixels(generator(upload(torch.stack(rows), device), *classes))
    generator.train(was_training)
    return images
