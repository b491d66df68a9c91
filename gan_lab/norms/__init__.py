"""Normalizations of a network's weights by their largest singular value.

`normalize` puts one on any module, `remove` takes it off again, `sigmas` reads the estimates.
An estimator (`SigmaOut`, `SigmaIn`, `SigmaBidirectional`, `SigmaOperator`) says which singular value; a scale
multiplies. `normalize_gradient` normalizes a network's scores instead, by the norm of their gradient.
"""

from gan_lab.norms.apply import (
    after_update,
    cached_weights,
    frozen,
    normalize,
    normalized_layers,
    remove,
    sigmas,
    trained_weight,
)
from gan_lab.norms.gradient import GradientNormalized, normalize_gradient, remove_gradient
from gan_lab.norms.parametrization import SpectralNormalization
from gan_lab.norms.sigma import SigmaBidirectional, SigmaEstimator, SigmaIn, SigmaOperator, SigmaOut

__all__ = [
    "GradientNormalized",
    "SigmaBidirectional",
    "SigmaEstimator",
    "SigmaIn",
    "SigmaOperator",
    "SigmaOut",
    "SpectralNormalization",
    "after_update",
    "cached_weights",
    "frozen",
    "normalize",
    "normalize_gradient",
    "normalized_layers",
    "remove",
    "remove_gradient",
    "sigmas",
    "trained_weight",
]
