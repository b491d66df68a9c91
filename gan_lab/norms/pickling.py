"""Copying and pickling of normalized layers, so that `copy.deepcopy` and `torch.save(network)` work.

`torch.nn.utils.parametrize` gives each layer a class of its own, which pickle cannot find again and which
knows its layer by its id: a copy of that class would take the original's weight inside `parametrize.cached`,
and lose its own when the original's norm is removed. So a layer is copied and stored as its plain class, its
attributes and its norm, and is parametrized anew.
"""

import copy
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from gan_lab.norms.parametrization import SpectralNormalization


def attach(layer: nn.Module, norm: SpectralNormalization) -> None:
    """Let a norm make the layer's weight, in a way that can be copied and pickled; its vectors stay."""
    was_frozen, norm.is_frozen = norm.is_frozen, True  # registering evaluates the weight
    parametrize.register_parametrization(layer, "weight", norm)
    norm.is_frozen = was_frozen
    layer.parametrizations.train(layer.training)  # type: ignore[union-attr]
    own_class: Any = type(layer)
    own_class.__reduce_ex__ = _reduce
    own_class.__deepcopy__ = _deepcopy


def _deepcopy(layer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    rebuild, parts = _reduce(layer, 2)
    return rebuild(*copy.deepcopy(parts, memo))


def _reduce(layer: nn.Module, protocol: int) -> tuple[Any, ...]:
    (plain_class,) = type(layer).__bases__
    state = dict(layer.__dict__)
    state["_modules"] = {name: child for name, child in layer._modules.items() if name != "parametrizations"}
    parametrizations: Any = layer.parametrizations
    weight = parametrizations["weight"]
    if len(parametrizations) > 1 or len(weight) > 1:
        raise RuntimeError("a layer with further parametrizations can only be copied by its state_dict")
    return _rebuild, (plain_class, state, weight.original, weight[0])


def _rebuild(
    plain_class: type[nn.Module], state: dict[str, Any], weight: nn.Parameter, norm: SpectralNormalization
) -> nn.Module:
    layer = plain_class.__new__(plain_class)
    layer.__dict__.update(state)
    layer._parameters = {"weight": weight, **layer._parameters}
    attach(layer, norm)
    return layer
