"""Pickling of normalized layers, so that `torch.save(network)` works.

`torch.nn.utils.parametrize` gives each layer a class of its own that pickle cannot find again. Such a layer is
stored as its plain class, its attributes and its norm, and is parametrized anew when it is loaded.
"""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def make_picklable(layer: nn.Module) -> None:
    """Teach a layer that has one parametrization, of its weight, to be pickled."""
    type(layer).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]  # a class of this layer alone


def _reduce(layer: nn.Module, protocol: int) -> tuple[Any, ...]:
    (plain_class,) = type(layer).__bases__
    state = dict(layer.__dict__)
    state["_modules"] = {name: child for name, child in layer._modules.items() if name != "parametrizations"}
    parametrizations = layer.parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    weight = parametrizations["weight"]
    if len(parametrizations) > 1 or len(weight) > 1:
        raise RuntimeError("a layer with further parametrizations can only be stored by its state_dict")
    return _rebuild, (plain_class, state, weight.original, weight[0])


def _rebuild(plain_class: type[nn.Module], state: dict[str, Any], weight: nn.Parameter, norm: nn.Module) -> nn.Module:
    layer = plain_class.__new__(plain_class)
    layer.__dict__.update(state)
    layer._parameters = {"weight": weight, **{k: v for k, v in layer._parameters.items() if k != "weight"}}
    training = norm.training
    parametrize.register_parametrization(layer, "weight", norm.eval())
    norm.train(training)
    make_picklable(layer)
    return layer
