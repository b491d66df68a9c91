"""Mean and covariance of any number of feature vectors, without keeping them all."""

import numpy as np
import torch
from torch import Tensor

BLOCK = 4096  # vectors gathered before the sums are updated, for one large matrix product, not many small


class Moments:
    """The mean and covariance of the vectors added so far, in float64 on the vectors' device.

    Blocks are merged as in Chan, Golub & LeVeque (1979), which loses no precision to large means.
    """

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._count = 0
        self._mean = torch.zeros(0)  # [F]
        self._scatter = torch.zeros(0, 0)  # [F, F], the sum of (x - mean)(x - mean)^T

    def add(self, features: Tensor) -> None:
        """Take in vectors `[B, F]`; B may be 0."""
        self._waiting.append(features)
        if sum(map(len, self._waiting)) >= BLOCK:
            self._merge()

    def statistics(self) -> dict[str, np.ndarray]:
        """What torch-fidelity's FID takes: `mu [F]` and unbiased `sigma [F, F]`, of at least two vectors."""
        self._merge()
        if self._count < 2:
            raise ValueError(f"a covariance needs at least two vectors, not {self._count}")
        return {"mu": self._mean.cpu().numpy(), "sigma": (self._scatter / (self._count - 1)).cpu().numpy()}

    def _merge(self) -> None:
        waiting, self._waiting = self._waiting, []
        count = sum(map(len, waiting))
        if not count:
            return
        block = torch.cat(waiting)
        block = (block.cpu() if block.device.type == "mps" else block).double()  # Apple's has no float64
        mean = block.mean(dim=0)
        block -= mean
        scatter = block.T @ block
        if not self._count:
            self._count, self._mean, self._scatter = count, mean, scatter
            return
        total = self._count + count
        shift = mean - self._mean
        self._scatter += scatter + torch.outer(shift, shift) * (self._count * count / total)
        self._mean = self._mean + shift * (count / total)
        self._count = total
