"""Normalizations of a network's weights by their largest singular value.

`normalize` puts one on any module, `remove` takes it off again, `sigmas` reads the estimates.
An estimator (`SigmaOut`, `SigmaIn`, `SigmaBidirectional`, `SigmaOperator`) says which singular value; a scale
multiplies. `normalize_gradient` normalizes a network's scores instead, by the norm of their gradient.
"""

from gan_lab.norms.apply import (
    cached_weights,
    frozen,
    has_other_parametrizations,
    normalize,
    normalized_layers,
    remove,
    sigmas,
    sole_norm,
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
    "cached_weights",
    "frozen",
    "has_other_parametrizations",
    "normalize",
    "normalize_gradient",
    "normalized_layers",
    "remove",
    "remove_gradient",
    "sigmas",
    "sole_norm",
    "trained_weight",
]
