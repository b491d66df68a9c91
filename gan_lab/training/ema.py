"""An exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor, nn

AVERAGED_BUFFERS = ("running_mean", "running_var")


class ExponentialMovingAverage:
    """A copy of `network` whose weights follow `average ← decay · average + (1 − decay) · weight`.

    The statistics of batch norm are averaged likewise, because those of the last iterates do not belong to
    the averaged weights; every other buffer (a norm's singular vectors, counters) is copied. For generators:
    Yazıcı et al. 2019 (arXiv 1806.04498).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"the decay of a moving average lies between 0 and 1, not at {decay}")
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move one step towards the weights of `network`, which has the structure of the copied one."""
        averages, weights = [], []
        for (name, ours), theirs in zip(self.network.named_buffers(), network.buffers(), strict=True):
            if name.rsplit(".", 1)[-1] in AVERAGED_BUFFERS:
                averages.append(ours)
                weights.append(theirs)
            else:
                ours.copy_(theirs)
        averages += self.network.parameters()
        weights += network.parameters()
        torch._foreach_lerp_(averages, weights, 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.network.load_state_dict(state)
