"""An extractor of one's own: convolutions with random weights, which need no training and no download."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gan_lab.metrics.extractors import Extractor


class RandomConvolutions(nn.Module):
    """uint8 images `[B, 3, H, W]` to features `[B, 128]`, in the place of logits too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.layers = nn.Sequential()
        for c_in, c_out in pairwise((3, 32, 64, 128)):
            convolution = nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, generator=rng)
            self.layers.extend([convolution, nn.ReLU()])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(images / 127.5 - 1).mean(dim=(2, 3))
        return features, features


def random_features(seed: int) -> Extractor:
    """The extractor whose weights this seed draws; its figures are called `metric/fid_random<seed>`."""
    identity = {"name": "random convolutions", "version": 1, "seed": seed}
    return Extractor(RandomConvolutions(seed), identity, f"_random{seed}", usual=2000)
