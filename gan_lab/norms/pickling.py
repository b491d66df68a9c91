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

from gan_lab.norms.parametrization import ScaledBias, SpectralNormalization


def attach(layer: nn.Module, norm: SpectralNormalization, of_bias: ScaledBias | None = None) -> None:
    """Let a norm make the layer's weight, in a way that can be copied and pickled; its vectors stay.

    `of_bias` makes its bias.
    """
    was_frozen, norm.is_frozen = norm.is_frozen, True  # registering evaluates the weight
    parametrize.register_parametrization(layer, "weight", norm)
    norm.is_frozen = was_frozen
    if of_bias is not None:
        parametrize.register_parametrization(layer, "bias", of_bias)
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
    parametrizations: Any = dict(layer.parametrizations.items())  # type: ignore[union-attr,operator]
    weight, bias = parametrizations.pop("weight"), parametrizations.get("bias")
    if bias is not None and isinstance(bias[0], ScaledBias):
        del parametrizations["bias"]
    if parametrizations or any(one is not None and len(one) > 1 for one in (weight, bias)):
        raise RuntimeError("a layer with further parametrizations can only be copied by its state_dict")
    of_bias = () if bias is None else (bias.original, bias[0])
    return _rebuild, (plain_class, state, weight.original, weight[0], *of_bias)


def _rebuild(
    plain_class: type[nn.Module],
    state: dict[str, Any],
    weight: nn.Parameter,
    norm: SpectralNormalization,
    bias: nn.Parameter | None = None,
    of_bias: ScaledBias | None = None,
) -> nn.Module:
    layer = plain_class.__new__(plain_class)
    layer.__dict__.update(state)
    parametrized = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    layer._parameters = {**parametrized, **layer._parameters}
    attach(layer, norm, of_bias)
    return layer
