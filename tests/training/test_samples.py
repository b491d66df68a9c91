"""What an image is made of: a function of its number, whatever is made with it."""

import pytest
import torch

from gan_lab.rng import stream
from gan_lab.training.samples import draw_latents


@pytest.mark.parametrize("latent_dim", [1, 5, 16, 100, 128])  # PyTorch draws few numbers otherwise than many
def test_each_image_has_the_numbers_of_a_stream_of_its_own(latent_dim: int) -> None:
    """So they are the same in a batch of any size, on any rank, and when a run is judged again."""
    rows = draw_latents(latent_dim, 3, "evaluation", 10_000_000, 10_000_007)
    for number, row in enumerate(rows, start=10_000_000):
        expected = torch.randn(latent_dim, generator=stream(3, "evaluation", number))
        assert torch.equal(row, expected)
        assert torch.equal(draw_latents(latent_dim, 3, "evaluation", number, number + 1)[0], expected)
