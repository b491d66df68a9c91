"""Normalizations of a network's weights: each divides a weight by a sigma.

`normalize` puts one on any module, `remove` takes it off again, `sigmas` reads the estimates. An estimator
says which sigma: a largest singular value (`SigmaOut`, `SigmaIn`, `SigmaBidirectional`, `SigmaOperator`), an
upper bound on one (`SigmaLeastOfFour`, `SigmaGram`), or a size (`SigmaFrobenius`, `SigmaFilters`,
`SigmaForcedFilters`); `SigmaStableRank` also shrinks the other singular values. A scale multiplies.
`normalize_gradient` normalizes a network's scores instead, by the norm of their gradient.
"""

from gan_lab.norms.apply import (
    after_update,
    cached_weights,
    frozen,
    has_other_parametrizations,
    iterate,
    normalize,
    normalized_layers,
    normalized_tensors,
    remove,
    sigmas,
    sole_norm,
    trained_weight,
)
from gan_lab.norms.certified import SigmaGram, SigmaLeastOfFour
from gan_lab.norms.gradient import GradientNormalized, normalize_gradient, remove_gradient
from gan_lab.norms.parametrization import SpectralNormalization
from gan_lab.norms.sigma import SigmaBidirectional, SigmaEstimator, SigmaIn, SigmaOperator, SigmaOut
from gan_lab.norms.sites import register
from gan_lab.norms.stable_rank import SigmaStableRank
from gan_lab.norms.variance import SigmaFilters, SigmaForcedFilters, SigmaFrobenius

__all__ = [
    "GradientNormalized",
    "SigmaBidirectional",
    "SigmaEstimator",
    "SigmaFilters",
    "SigmaForcedFilters",
    "SigmaFrobenius",
    "SigmaGram",
    "SigmaIn",
    "SigmaLeastOfFour",
    "SigmaOperator",
    "SigmaOut",
    "SigmaStableRank",
    "SpectralNormalization",
    "after_update",
    "cached_weights",
    "frozen",
    "has_other_parametrizations",
    "iterate",
    "normalize",
    "normalize_gradient",
    "normalized_layers",
    "normalized_tensors",
    "register",
    "remove",
    "remove_gradient",
    "sigmas",
    "sole_norm",
    "trained_weight",
]
