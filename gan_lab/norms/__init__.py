"""Normalizations of a network's weights by their largest singular value.

`normalize` puts one on any module, `remove` takes it off again, `sigmas` reads the estimates.
An estimator (`SigmaOut`, `SigmaIn`, `SigmaBidirectional`) says which singular value; a scale multiplies.
"""

from gan_lab.norms.apply import frozen, normalize, normalized_layers, remove, sigmas
from gan_lab.norms.parametrization import SpectralNormalization
from gan_lab.norms.sigma import SigmaBidirectional, SigmaEstimator, SigmaIn, SigmaOut

__all__ = [
    "SigmaBidirectional",
    "SigmaEstimator",
    "SigmaIn",
    "SigmaOut",
    "SpectralNormalization",
    "frozen",
    "normalize",
    "normalized_layers",
    "remove",
    "sigmas",
]
