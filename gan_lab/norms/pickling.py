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

from gan_lab.norms.parametrization import OURS, ScaledBias, SpectralNormalization


def attach(module: nn.Module, tensor: str, norm: nn.Module, of_bias: ScaledBias | None = None) -> None:
    """Let a norm make a module's tensor, in a way that can be copied and pickled; its vectors stay.

    `of_bias` makes its bias.
    """
    for name, one in ((tensor, norm), ("bias", of_bias)):
        if one is not None:
            one.order = _order(module)  # type: ignore[assignment]  # of the parameters, for `remove`
            _attach(module, name, one)


def _order(module: nn.Module) -> list[str]:
    """The names of a module's parameters as they stood before any was parametrized."""
    for several in getattr(module, "parametrizations", {}).values():
        if isinstance(several[0], OURS):
            return several[0].order  # type: ignore[return-value]
    return list(module._parameters)


def _attach(module: nn.Module, tensor: str, norm: nn.Module) -> None:
    norms = [one for one in norm.modules() if isinstance(one, SpectralNormalization)]
    before = [one.is_frozen for one in norms]
    for one in norms:
        one.is_frozen = True  # registering evaluates the weight
    parametrize.register_parametrization(module, tensor, norm)
    for one, was_frozen in zip(norms, before, strict=True):
        one.is_frozen = was_frozen
    module.parametrizations.train(module.training)  # type: ignore[union-attr]
    own_class: Any = type(module)
    own_class.__reduce_ex__ = _reduce
    own_class.__deepcopy__ = _deepcopy


def _deepcopy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    rebuild, parts = _reduce(module, 2)
    return rebuild(*copy.deepcopy(parts, memo))


def _reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    (plain_class,) = type(module).__bases__
    state = dict(module.__dict__)
    state["_modules"] = {name: child for name, child in module._modules.items() if name != "parametrizations"}
    parts: dict[str, tuple[nn.Parameter, nn.Module]] = {}
    for tensor, several in module.parametrizations.items():  # type: ignore[union-attr,operator]
        if len(several) > 1 or not isinstance(several[0], OURS):
            raise RuntimeError("a layer with further parametrizations can only be copied by its state_dict")
        parts[tensor] = several.original, several[0]
    return _rebuild, (plain_class, state, parts)


def _rebuild(
    plain_class: type[nn.Module], state: dict[str, Any], parts: dict[str, tuple[nn.Parameter, nn.Module]]
) -> nn.Module:
    module = plain_class.__new__(plain_class)
    module.__dict__.update(state)
    module._parameters = {**{tensor: weight for tensor, (weight, _) in parts.items()}, **module._parameters}
    for tensor, (_, norm) in parts.items():
        _attach(module, tensor, norm)
    return module
