"""GAN losses: pure functions of the discriminator's scores (`[B]`, unbounded).

Each has two methods: `discriminator(real, fake)` gives the two terms, on real and on fake scores, whose sum
is the loss (or the loss itself, where it has no such terms), and `generator(fake)` the generator's loss; all
are scalars, means over the batch. A loss whose `generator_sees_real` is true is called as
`generator(fake, real)` instead, with the scores of as many real images.
"""

import torch.nn.functional as F
from torch import Tensor


class Hinge:
    """The hinge loss (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

    def discriminator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(1 - real).mean(), F.relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()


class NonSaturating:
    """Cross-entropy with the non-saturating generator loss (Goodfellow et al. 2014, section 3).

    With D = sigmoid(score): −log D(real) − log(1 − D(fake)), and −log D(fake) for the generator, written with
    softplus so that no score overflows.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return F.softplus(-real).mean(), F.softplus(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


class Relativistic:
    """The relativistic pairing loss (Jolicoeur-Martineau 2019, arXiv 1807.00734, equation 7; R3GAN's).

    `softplus(−(D(x) − D(G(z))))`, each real image against the generated one at its place in the batch; the
    generator's has the two exchanged. A constant added to all scores changes nothing.
    """

    generator_sees_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(real - fake).mean()


class Wasserstein:
    """The Wasserstein loss (Arjovsky et al. 2017, equation 2); it needs a Lipschitz discriminator."""

    def discriminator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return -real.mean(), fake.mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()
