"""GAN losses: pure functions of the discriminator's scores (`[B]`, unbounded)."""

import torch.nn.functional as F
from torch import Tensor


class Hinge:
    """The hinge loss (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

    def discriminator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms on real and on fake scores; the loss is their sum."""
        return F.relu(1 - real).mean(), F.relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()
