"""The norms that are more than a weight over a singular value, as a library call puts them on a network."""

import functools
from typing import Any

from norm_networks import images, network
from torch import nn

from gan_lab import norms

FAMILIES: dict[str, dict[str, Any]] = {
    "frobenius": {"estimator": norms.SigmaFrobenius},
    "weight norm": {"estimator": norms.SigmaFilters, "gamma": "per_filter", "gamma_start": "weight"},
    "forced weight norm": {"estimator": norms.SigmaForcedFilters},
    "filters' gammas": {"estimator": norms.SigmaOut, "gamma": "per_filter"},
    "clipped": {"estimator": norms.SigmaOut, "mode": "clip", "scale": 0.4},
    "clipped, shared gamma": {
        "estimator": norms.SigmaBidirectional,
        "mode": "clip",
        "scale": 0.4,
        "gamma": "shared",
    },
    "clipped operator": {"estimator": norms.SigmaOperator, "mode": "clip", "scale": 0.4},
    "clipped filters": {"estimator": norms.SigmaFilters, "mode": "clip", "scale": 0.4},
    "fan": {"estimator": norms.SigmaOut, "scale_rule": "fan"},
    "fan, shared gamma": {"estimator": norms.SigmaBidirectional, "scale_rule": "fan", "gamma": "shared"},
    "least of four": {"estimator": norms.SigmaLeastOfFour},
    "certified": {"estimator": functools.partial(norms.SigmaLeastOfFour, cheapest=True)},
    "gram": {"estimator": norms.SigmaGram},
    "stable rank": {"estimator": norms.SigmaStableRank},
}


def family(name: str, seed: int = 0, double: bool = False, **options: Any) -> nn.Sequential:
    """The tests' network under one of them."""
    net, x = network(seed), images(1)
    if double:
        net, x = net.double(), x.double()
    norms.normalize(net, example_input=x, **{"scale": 1.3, **FAMILIES[name], **options})
    return net
