"""Small networks and the norms that are put on them."""

import torch
from torch import Tensor, nn

from gan_lab import norms
from gan_lab.norms import SigmaBidirectional, SigmaEstimator, SigmaIn, SigmaOperator, SigmaOut

ESTIMATORS: dict[str, type[SigmaEstimator]] = {
    "out": SigmaOut,
    "in": SigmaIn,
    "bidirectional": SigmaBidirectional,
    "operator": SigmaOperator,
}
GAMMAS = ("none", "shared", "per_layer")
SIZE = 7  # odd, so that the stride leaves out the last pixels


def network(seed: int = 0) -> nn.Sequential:
    """Images `[B, 3, 7, 7]` to scores `[B]`: a strided, a grouped, a transposed and a linear layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 2, 3, stride=2, output_padding=1),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(2 * 8 * 8, 1),
        nn.Flatten(0),
    )


LAYERS = ["0", "2", "4", "7"]


class Alone(nn.Module):
    """The network, each weight evaluated by its own norm."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Together(Alone):
    """The network, all weights cached_weights at once."""

    def forward(self, x: Tensor) -> Tensor:
        with norms.cached_weights(self.net):
            return self.net(x)


def images(count: int = 3) -> Tensor:
    torch.manual_seed(count)
    return torch.randn(count, 3, SIZE, SIZE)


def normalized(
    estimator: str, gamma: str = "none", scale: float = 1.3, seed: int = 0, **options: int
) -> nn.Sequential:
    net = network(seed)
    norms.normalize(net, ESTIMATORS[estimator], scale, gamma, example_input=images(1), **options)
    return net


def vectors(net: nn.Module) -> list[Tensor]:
    """Copies of all singular vectors."""
    return [buffer.clone() for buffer in net.buffers()]


def moved(before: list[Tensor], net: nn.Module) -> list[bool]:
    return [not torch.equal(old, new) for old, new in zip(before, net.buffers(), strict=True)]
