"""How much a network can stretch a change of its input: constants of its layers, and their products."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from gan_lab.layers import WEIGHTED


@runtime_checkable
class Chains(Protocol):
    """A network whose output is the sum of parallel chains of modules, e.g. a residual block's two."""

    def chains(self) -> Sequence[Sequence[nn.Module]]: ...


# Lipschitz constants of the modules without weights, in the Euclidean norm of one image's activations.
_CONSTANTS: Mapping[type[nn.Module], Callable[[Any], float]] = {
    nn.ReLU: lambda _: 1.0,
    nn.LeakyReLU: lambda module: max(1.0, abs(module.negative_slope)),
    nn.Tanh: lambda _: 1.0,
    nn.Identity: lambda _: 1.0,
    nn.Flatten: lambda _: 1.0,
    nn.Unflatten: lambda _: 1.0,
    nn.AvgPool2d: lambda module: _average_pooling(module),
    nn.Upsample: lambda module: _upsampling(module),
    nn.GroupNorm: lambda module: _standardization(module),
    nn.LayerNorm: lambda module: _standardization(module),
    _InstanceNorm: lambda module: _standardization(module),
}


def _average_pooling(pool: nn.AvgPool2d) -> float:
    """1/√k for k pixels a window that do not overlap: a mean shrinks by the root of their number."""
    size, stride, padding = (
        (value, value) if isinstance(value, int) else tuple(value)
        for value in (pool.kernel_size, pool.stride, pool.padding)
    )
    if size != stride or padding != (0, 0) or pool.ceil_mode or pool.divisor_override:
        raise ValueError(
            "no Lipschitz constant is known for average pooling with windows that overlap or are not full"
        )
    return 1 / math.sqrt(math.prod(size))


def _upsampling(upsample: nn.Upsample) -> float:
    """s for images whose pixels are repeated s × s times: √(s²)."""
    factor = upsample.scale_factor
    if upsample.mode != "nearest" or not isinstance(factor, float) or not factor.is_integer():
        raise ValueError("no Lipschitz constant is known for upsampling that does more than repeat pixels")
    return factor


def _standardization(norm: nn.GroupNorm | nn.LayerNorm | _InstanceNorm) -> float:
    """max |γ| / √ε for `γ (h − mean) / √(variance + ε)` of an image's own activations h.

    The Jacobian is γ / √(variance + ε) times a matrix of norm at most 1, a projection where h is constant:
    there the constant is attained. Elsewhere it is far too large, 316 for ε = 1e-5.
    """
    if getattr(norm, "track_running_stats", False):
        raise ValueError("no Lipschitz constant is known for instance norm by running statistics")
    gain = 1.0 if norm.weight is None else float(norm.weight.detach().abs().max())
    return gain / math.sqrt(norm.eps)


def constant(module: nn.Module, operator_norms: Mapping[nn.Module, float]) -> float:
    """A Lipschitz constant of `module` in eval mode, given the operator norms of its weighted layers.

    Products along chains and sums over parallel ones. A module outside this package can state its own by a
    method `lipschitz() -> float`, or its structure by `chains()`. Raises ValueError, naming the type, for a
    module of which nothing is known.
    """
    if isinstance(module, WEIGHTED):
        return operator_norms[module]
    own = getattr(module, "lipschitz", None)
    if own is not None:
        return float(own())
    if _is_composite(module):
        return sum(math.prod(constant(part, operator_norms) for part in chain) for chain in chains_of(module))
    if isinstance(module, _BatchNorm) and module.running_var is not None:
        gain = 1.0 if module.weight is None else module.weight.detach().abs()
        return float((gain / torch.sqrt(module.running_var + module.eps)).max())
    for kind, rule in _CONSTANTS.items():
        if isinstance(module, kind):
            return rule(module)
    raise ValueError(
        f"no Lipschitz constant is known for {type(module).__name__}: "
        "give it a method lipschitz() or chains()"
    )


def _is_composite(module: nn.Module) -> bool:
    """Whether a module says what it is made of; a Sequential with a forward of its own does not."""
    return isinstance(module, Chains) or (
        isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    )


def chains_of(module: nn.Module) -> Sequence[Sequence[nn.Module]]:
    """The parallel chains of modules whose sum a composite computes; one for a Sequential."""
    if isinstance(module, Chains):
        return module.chains()
    assert isinstance(module, nn.Sequential)
    return [list(module)]


def gains_after(
    module: nn.Module, operator_norms: Mapping[nn.Module, float], downstream: float = 1.0
) -> Iterator[tuple[nn.Module, float]]:
    """(weighted layer, how much a change of its output can be stretched until the network's output)."""
    if isinstance(module, WEIGHTED):
        yield module, downstream
        return
    if not _is_composite(module):
        return
    for chain in chains_of(module):
        gain = downstream
        for part in reversed(chain):
            yield from gains_after(part, operator_norms, gain)
            gain *= constant(part, operator_norms)
