"""A pair of one's own: fully connected networks for images of any size."""

from torch import nn


class Generator(nn.Sequential):
    """Latents `[B, latent_dim]` to images `[B, 3, image_size, image_size]` in (-1, 1)."""

    def __init__(self, image_size: int, latent_dim: int = 128, width: float = 1.0) -> None:
        hidden = max(1, round(512 * width))
        super().__init__()
        self.linear1 = nn.Linear(latent_dim, hidden)
        self.relu1 = nn.ReLU(inplace=True)
        self.linear2 = nn.Linear(hidden, hidden)
        self.relu2 = nn.ReLU(inplace=True)
        self.linear3 = nn.Linear(hidden, 3 * image_size**2)
        self.tanh = nn.Tanh()
        self.image = nn.Unflatten(1, (3, image_size, image_size))


class Discriminator(nn.Sequential):
    """Images `[B, 3, image_size, image_size]` to scores `[B]`, unbounded."""

    def __init__(self, image_size: int, width: float = 1.0) -> None:
        hidden = max(1, round(512 * width))
        super().__init__()
        self.pixels = nn.Flatten()
        self.linear1 = nn.Linear(3 * image_size**2, hidden)
        self.lrelu1 = nn.LeakyReLU(0.1, inplace=True)
        self.linear2 = nn.Linear(hidden, hidden)
        self.lrelu2 = nn.LeakyReLU(0.1, inplace=True)
        self.linear3 = nn.Linear(hidden, 1)
        self.scores = nn.Flatten(0)  # [B, 1] to [B]
