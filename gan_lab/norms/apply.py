"""Putting a norm on a network, taking it off, and reading its sigmas."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_lab.kernels import weighted_layers
from gan_lab.norms.parametrization import SpectralNormalization
from gan_lab.norms.pickling import make_picklable
from gan_lab.norms.sigma import SigmaEstimator

log = logging.getLogger(__name__)

Gamma = Literal["none", "shared", "per_layer"]


def normalize(
    network: nn.Module,
    estimator: Callable[..., SigmaEstimator],
    scale: float = 1.0,
    gamma: Gamma = "none",
    n_power_iterations: int = 1,
    warmup_iterations: int = 15,
    example_input: Tensor | None = None,
) -> list[str]:
    """Normalize every linear, convolution and transposed convolution layer of `network`, in place.

    `estimator` makes a layer's sigma, e.g. `SigmaOut`; the effective weight is `scale · W / sigma`, with
    `gamma` a scale that is learned from there: one for all layers (`shared`) or one each (`per_layer`).
    `n_power_iterations` run at each evaluation of a weight in training mode, `warmup_iterations` run now, so
    that sigma is right from the first batch. `example_input` (any batch that the network takes) shows the sizes
    of the layers' inputs to an estimator that needs them (`SigmaOperator`).

    Layers with a parameter called `weight` that are of no kind named above are left alone, with a line in the
    log. Returns the dotted names of the normalized layers. Raises ValueError where a layer is normalized
    already, where its size is needed and unknown, or where the estimator has no rule for it.
    """
    layers = dict(weighted_layers(network))
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"layer {name or '(root)'} has a parametrized weight already: remove it first")
    needs_size = getattr(_class_of(estimator), "needs_input_size", False)
    sizes = input_sizes(network, layers, example_input) if needs_size else {}
    shared = nn.Parameter(_scalar(scale, network)) if gamma == "shared" else None

    prepared: dict[str, SpectralNormalization] = {}
    for name, layer in layers.items():
        assert isinstance(layer.weight, Tensor)
        try:
            sigma = estimator(layer, sizes[name]) if needs_size else estimator(layer)
        except ValueError as error:
            raise ValueError(f"layer {name or '(root)'} cannot be normalized: {error}") from error
        for _ in range(warmup_iterations):
            sigma.power_iterate(layer.weight)
        own = nn.Parameter(_scalar(scale, network)) if gamma == "per_layer" else shared
        prepared[name] = SpectralNormalization(sigma, scale if own is None else own, n_power_iterations)

    # Only now is the network touched: a layer that was refused leaves it as it was.
    for name, norm in prepared.items():
        layer = layers[name]
        # Registering evaluates the weight; it shall not cost a power iteration.
        parametrize.register_parametrization(layer, "weight", norm.eval())
        norm.train(layer.training)
        make_picklable(layer)
        if norm.estimator.input_size:
            layer.register_forward_pre_hook(_InputSizeCheck(name, norm.estimator.input_size))
    _name_the_unknown(network, layers)
    return list(prepared)


def _class_of(estimator: object) -> object:
    """The class behind an estimator that may be wrapped in `functools.partial`."""
    return getattr(estimator, "func", estimator)


def _scalar(value: float, network: nn.Module) -> Tensor:
    return torch.tensor(value, device=next(network.parameters()).device)


def _name_the_unknown(network: nn.Module, layers: dict[str, nn.Module]) -> None:
    known = set(layers.values())
    for name, module in network.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim > 1 and module not in known:
            log.warning("layer %s (%s) is of no kind that a norm knows: left alone", name, type(module).__name__)


def input_sizes(
    network: nn.Module, layers: dict[str, nn.Module], example_input: Tensor | None
) -> dict[str, tuple[int, ...]]:
    """The spatial sizes of each layer's input (`()` if linear), seen in a pass that changes nothing.

    Raises ValueError where a layer sees two sizes, or takes no part in the pass.
    """
    if example_input is None:
        raise ValueError("this sigma depends on the layers' input sizes: give normalize an example_input")
    sizes: dict[str, tuple[int, ...]] = {}

    def hook_for(name: str, is_linear: bool) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            size = () if is_linear else tuple(inputs[0].shape[2:])
            if sizes.setdefault(name, size) != size:
                raise ValueError(f"layer {name} is used at two sizes, {sizes[name]} and {size}: it has no one operator")

        return hook

    handles = [
        layer.register_forward_pre_hook(hook_for(name, isinstance(layer, nn.Linear))) for name, layer in layers.items()
    ]
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            network(example_input)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    unused = sorted(set(layers) - set(sizes))
    if unused:
        raise ValueError(f"layer {unused[0]} takes no part in a pass of example_input: its input size is unknown")
    return sizes


@dataclass(frozen=True)
class _InputSizeCheck:
    """Refuses inputs of another size than the one that a layer's sigma is for."""

    layer: str
    size: tuple[int, ...]

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = tuple(inputs[0].shape[2:])
        if size != self.size:
            raise ValueError(
                f"layer {self.layer} is normalized for inputs of size {self.size}, not {size}: "
                "normalize the network with an example_input of that size"
            )


def normalized_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module, SpectralNormalization]]:
    """(dotted name, layer, its norm) of every layer that `normalize` has normalized."""
    for name, layer in weighted_layers(network):
        if parametrize.is_parametrized(layer, "weight"):
            for norm in layer.parametrizations.weight:  # type: ignore[union-attr]
                if isinstance(norm, SpectralNormalization):
                    yield name, layer, norm


def trained_weight(layer: nn.Module) -> Tensor:
    """The parameter that an optimizer moves: the weight before its norm, or the weight where there is none."""
    if parametrize.is_parametrized(layer, "weight"):
        weight = layer.parametrizations.weight.original  # type: ignore[union-attr]
    else:
        weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def remove(network: nn.Module) -> list[str]:
    """Take the norms off again, leaving the effective weights in place as ordinary parameters.

    Returns the dotted names of the layers. The weights are those of eval mode: nothing moves.
    """
    names = []
    for name, layer, norm in list(normalized_layers(network)):
        norm.eval()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        for key, hook in list(layer._forward_pre_hooks.items()):
            if isinstance(hook, _InputSizeCheck):
                del layer._forward_pre_hooks[key]
        names.append(name)
    return names


@torch.no_grad()
def sigmas(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The estimates as they stand, `{"sigma/<layer>": scalar}`, and their parts, e.g. `sigma_out/<layer>`.

    A learned scale stands beside them as `gamma/<layer>`. `prefix` is put before each layer's name.
    """
    values = {}
    for name, layer, norm in normalized_layers(network):
        weight, name = trained_weight(layer), prefix + name
        values[f"sigma/{name}"] = norm.estimator(weight)
        for part, value in norm.estimator.parts(weight).items():
            values[f"{part}/{name}"] = value
        if isinstance(norm.scale, Tensor):
            values[f"gamma/{name}"] = norm.scale.detach().clone()
    return values


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """No power iteration inside the block: for passes that do not update these networks."""
    norms = [norm for network in networks for _, _, norm in normalized_layers(network)]
    before = [norm.is_frozen for norm in norms]
    for norm in norms:
        norm.is_frozen = True
    try:
        yield
    finally:
        for norm, was_frozen in zip(norms, before, strict=True):
            norm.is_frozen = was_frozen
