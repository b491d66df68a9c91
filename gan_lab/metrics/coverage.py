"""Density and coverage of generated images: how many lie among the real ones, and how many they reach."""

import torch
from torch import Tensor

NEIGHBORS = 5  # k (Naeem et al. 2020, section 3.3)
AT_ONCE = 1024  # vectors whose distances to all others are held


def density_and_coverage(real: Tensor, generated: Tensor, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, equations 3 and 4) of features `[n, F]` and `[m, F]`.

    A real vector's ball reaches to its k-th nearest neighbour among the real ones. Density is the number of
    balls that a generated vector lies in, on average and over k; coverage the share of balls that hold one.
    Needs more than k real vectors. In the features' precision, O((n + m) · 1024) of memory.
    """
    radii = torch.cat(
        [torch.cdist(some, real).kthvalue(neighbors + 1).values for some in real.split(AT_ONCE)]
    )  # [n]; the nearest is the vector itself
    inside, is_reached = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for some in generated.split(AT_ONCE):
        within = torch.cdist(some, real) < radii
        inside += int(within.sum())
        is_reached |= within.any(dim=0)
    return inside / (neighbors * len(generated)), float(is_reached.double().mean())
