"""Mean and covariance of any number of feature vectors, without keeping them all."""

import numpy as np
import torch
from torch import Tensor

BLOCK = 4096  # vectors gathered before the sums are updated, for one large matrix product, not many small


class Moments:
    """The mean and covariance of the vectors added so far, in float64 on the host.

    Blocks are merged as in Chan, Golub & LeVeque (1979), which loses no precision to large means.
    """

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._count = 0
        self._mean = np.zeros(0)  # [F]
        self._scatter = np.zeros((0, 0))  # [F, F], the sum of (x - mean)(x - mean)^T

    def add(self, features: Tensor) -> None:
        """Take in vectors `[B, F]`; B may be 0."""
        self._waiting.append(features)  # on their device: to wait for each would leave a GPU idle
        if sum(map(len, self._waiting)) >= BLOCK:
            self._merge()

    def statistics(self) -> dict[str, np.ndarray]:
        """What torch-fidelity's FID takes: `mu [F]` and unbiased `sigma [F, F]`, of at least two vectors."""
        self._merge()
        if self._count < 2:
            raise ValueError(f"a covariance needs at least two vectors, not {self._count}")
        return {"mu": self._mean, "sigma": self._scatter / (self._count - 1)}

    def _merge(self) -> None:
        block = torch.cat(self._waiting).cpu().double().numpy() if self._waiting else np.zeros((0, 0))
        self._waiting = []
        count = len(block)
        if not count:
            return
        mean = block.mean(axis=0)
        block -= mean
        scatter = block.T @ block
        if not self._count:
            self._count, self._mean, self._scatter = count, mean, scatter
            return
        total = self._count + count
        shift = mean - self._mean
        self._scatter += scatter + np.outer(shift, shift) * (self._count * count / total)
        self._mean = self._mean + shift * (count / total)
        self._count = total
