"""An exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor, nn

AVERAGED_BUFFERS = ("running_mean", "running_var")


class ExponentialMovingAverage:
    """A copy of `network` whose weights follow `average ← decay · average + (1 − decay) · weight`.

    Of `network`'s own tensors, which must stay what they are and change in place.

    The statistics of batch norm are averaged likewise, because those of the last iterates do not belong to
    the averaged weights; every other buffer (a norm's singular vectors, counters) is copied. For generators:
    Yazıcı et al. 2019 (arXiv 1806.04498).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"the decay of a moving average lies between 0 and 1, not at {decay}")
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        # Found once: a walk through the modules of both takes longer than the average of a small network.
        self._averages: list[Tensor] = [*self.network.parameters()]
        self._averaged: list[Tensor] = [*network.parameters()]
        self._copies: list[tuple[Tensor, Tensor]] = []
        for (name, ours), theirs in zip(self.network.named_buffers(), network.buffers(), strict=True):
            if name.rsplit(".", 1)[-1] in AVERAGED_BUFFERS:
                self._averages.append(ours)
                self._averaged.append(theirs)
            else:
                self._copies.append((ours, theirs))

    @torch.no_grad()
    def update(self) -> None:
        """Move one step towards what the weights of the followed network are now."""
        for ours, theirs in self._copies:
            ours.copy_(theirs)
        torch._foreach_lerp_(self._averages, self._averaged, 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.network.load_state_dict(state)
