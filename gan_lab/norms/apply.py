"""Putting a norm on a network, taking it off, and reading its sigmas."""

import contextlib
import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_lab.layers import KernelLayout, weighted_layers
from gan_lab.norms.parametrization import (
    OURS,
    Mode,
    PackedNorms,
    ScaledBias,
    SpectralNormalization,
    iterate_together,
    normalized_weights,
)
from gan_lab.norms.pickling import attach
from gan_lab.norms.plain import plain
from gan_lab.norms.power_iteration import Iterates, power_iterate
from gan_lab.norms.sigma import LargestSingularValue, SigmaEstimator
from gan_lab.norms.sites import PACKED, Selection, Site, name_the_unknown, selected, sites

log = logging.getLogger(__name__)

Gamma = Literal["none", "shared", "per_layer", "per_filter"]
GammaStart = Literal["scale", "weight"]
ScaleRule = Literal["constant", "fan"]
PowerIteration = Literal["block", "plain"]


def normalize(
    network: nn.Module,
    estimator: Callable[..., SigmaEstimator],
    scale: float = 1.0,
    gamma: Gamma = "none",
    gamma_bias: bool = False,
    gamma_start: GammaStart = "scale",
    mode: Mode = "divide",
    scale_rule: ScaleRule = "constant",
    n_power_iterations: int = 1,
    warmup_iterations: int = 50,
    power_iteration: PowerIteration = "block",
    example_input: Tensor | tuple[Tensor, ...] | None = None,
    layers: Selection = None,
    skip_zeros: bool = False,
) -> list[str]:
    """Normalize the weights of `network`, in place.

    They are those of its linear, convolution and transposed convolution layers, of embeddings
    (`[classes, features]`, as a linear layer's), of attention (the three matrices of `in_proj_weight`, each
    for itself) and of modules that `register` knows; of these `layers` chooses some: by name or shell
    pattern, a sequence of both, or a function of name and module.

    `estimator` is a class, or a `functools.partial` of one, that makes a layer's sigma, e.g. `SigmaOut`. The
    effective weight is `s · W / sigma`, or with `mode="clip"` `W / max(1, sigma / s)`, which only ever makes
    a weight smaller. s is `scale`, with `scale_rule="fan"` times `√(fan-out / fan-in)` of the layer. Both
    fans count the kernel's positions, so that for convolutions too this is `√(c_out / c_in)` (of one group).

    With `gamma` s is learned: one number for all layers (`shared`; it counts times what the rule gives each),
    one for each (`per_layer`) or one for each output filter (`per_filter`). It begins at `scale`, or with
    `gamma_start="weight"` at `scale · sigma`, so that the weights stay as they are. With `gamma_bias` it
    multiplies the layers' biases too.

    `n_power_iterations` run at each evaluation of a weight in training mode, `warmup_iterations` run now, so
    that sigma is right from the first batch. `power_iteration` is `block` (two vectors and a memory, once an
    update) or `plain` (see `gan_lab.norms.plain`: call `after_update` after each). `example_input` (any batch
    that the network takes, in a tuple with its labels if it takes any) shows the sizes of the layers' inputs
    to an estimator that needs them (`SigmaOperator`).

    Modules of no kind named above are left alone, with a line in the log where they hold a matrix. Returns
    the dotted names of the normalized layers. Raises ValueError, with the network as it was, where a layer's
    weight is parametrized already, where its input size is needed and unknown, where the estimator has no
    rule for it, or where its sigma is not positive; a weight of zeros is left alone with `skip_zeros`.
    """
    for name, value, choices in (
        ("gamma", gamma, Gamma),
        ("gamma_start", gamma_start, GammaStart),
        ("mode", mode, Mode),
        ("scale_rule", scale_rule, ScaleRule),
        ("power_iteration", power_iteration, PowerIteration),
    ):
        if value not in get_args(choices):
            raise ValueError(f"{name}={value!r} is none of {', '.join(get_args(choices))}")
    if gamma_bias and gamma == "none":
        raise ValueError("gamma_bias=True needs a scale that is learned: set gamma to another than none")
    if gamma_start == "weight" and gamma not in ("per_layer", "per_filter"):
        raise ValueError(
            "gamma_start='weight' needs a scale for each layer: set gamma to per_layer or per_filter"
        )
    found = list(sites(network))
    chosen = selected(found, layers)
    for site in chosen:
        for tensor in (site.tensor, "bias") if gamma_bias else (site.tensor,):
            if parametrize.is_parametrized(site.module, tensor):
                raise ValueError(f"{_called(site)} has a parametrized {tensor} already: remove it first")
    if skip_zeros:
        for site in chosen:
            if not _weight(site).any():
                log.warning("%s is left alone: its weight is 0", _called(site))
        chosen = [site for site in chosen if _weight(site).any()]
    needs_size = getattr(getattr(estimator, "func", estimator), "needs_input_size", False)
    example = example_input if isinstance(example_input, tuple) else (example_input,)
    sizes: dict[str, tuple[int, ...]] = {}
    if needs_size:
        layers_of = {site.name: (site.module, site.layer) for site in chosen}
        sizes = _sizes(network, layers_of, *example)
    if power_iteration == "plain":  # which takes its iterations by itself
        estimator, n_power_iterations = plain(estimator, n_power_iterations), 0

    prepared: list[SpectralNormalization] = []
    learned: nn.Parameter | None = None
    for site in chosen:
        weight, layout = _weight(site), KernelLayout.of(site.layer)
        try:
            sigma = estimator(site.layer, sizes[site.name]) if needs_size else estimator(site.layer)
            _warm_up(sigma, weight, warmup_iterations)
        except ValueError as error:
            raise ValueError(f"{_called(site)} cannot be normalized: {error}") from error
        fan_in, fan_out = layout.fans(weight)
        gain = math.sqrt(fan_out / fan_in) if scale_rule == "fan" else 1.0
        if gamma != "none" and (learned is None or gamma != "shared"):
            start = weight.new_tensor(scale)
            if gamma_start == "weight":
                start = start / gain * sigma(weight)
            if gamma == "per_filter":
                start = start.expand(len(layout.kernel(weight))).clone()
            learned = nn.Parameter(start.detach())
        prepared.append(
            SpectralNormalization(
                sigma, scale if learned is None else learned, n_power_iterations, mode, gain, layout
            )
        )

    name_the_unknown(network, found)
    # Only now is the network touched: a layer that was refused leaves it as it was.
    packed: dict[nn.Module, dict[int, SpectralNormalization]] = {}
    for site, norm in zip(chosen, prepared, strict=True):
        if site.part is not None:
            packed.setdefault(site.module, {})[site.part] = norm
            continue
        of_bias = None
        has_bias = getattr(site.module, "bias", None) is not None
        if isinstance(norm.scale, nn.Parameter) and gamma_bias and has_bias:
            of_bias = ScaledBias(norm.scale)
        attach(site.module, site.tensor, norm, of_bias)
        if norm.estimator.input_size:
            check = _InputSizeCheck(site.name, norm.estimator.input_size)
            site.module.register_forward_pre_hook(check)
    for module, norms in packed.items():
        parts = [norms.get(part, nn.Identity()) for part in range(len(PACKED))]
        attach(module, "in_proj_weight", PackedNorms(parts))
    for _, weight, norm in normalized_tensors(network):
        norm.estimator.settle(weight)
    return [site.name for site in chosen]


def _called(site: Site) -> str:
    return f"layer {site.name or '(root)'}"


def _weight(site: Site) -> Tensor:
    """As it stands, of a packed one the part."""
    assert isinstance(site.layer.weight, Tensor)
    return site.layer.weight.detach()


@torch.no_grad()
def _warm_up(estimator: SigmaEstimator, weight: Tensor, iterations: int) -> None:
    for _ in range(iterations):
        estimator.power_iterate(weight)
    sigma = estimator(weight)
    if not sigma.isfinite().all() or (sigma <= 0).any() or sigma.ndim != estimator.per_filter:
        raise ValueError(
            f"its sigma is {sigma.tolist()}, not a positive number: initialize its weight first, choose "
            "other layers, or pass over weights of zeros with skip_zeros=True"
        )


@contextlib.contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; each module is in its own mode again after it."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def input_sizes(
    network: nn.Module, layers: Mapping[str, nn.Module], example_input: Tensor | None, *labels: Tensor
) -> dict[str, tuple[int, ...]]:
    """The spatial sizes of each layer's input (`()` if linear), seen in a pass that changes nothing.

    Raises ValueError where a layer sees two sizes, or takes no part in the pass.
    """
    return _sizes(network, {name: (layer, layer) for name, layer in layers.items()}, example_input, *labels)


def _sizes(
    network: nn.Module,
    layers: Mapping[str, tuple[nn.Module, nn.Module]],
    example_input: Tensor | None,
    *labels: Tensor,
) -> dict[str, tuple[int, ...]]:
    """Like `input_sizes`, of modules with the layers that they compute like."""
    sizes: dict[str, tuple[int, ...]] = {
        name: () for name, (_, layer) in layers.items() if isinstance(layer, nn.Linear)
    }
    if len(sizes) == len(layers):
        return sizes
    if example_input is None:
        raise ValueError("this sigma depends on the layers' input sizes: give normalize an example_input")

    def hook_for(name: str, layer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            size = _spatial_size(layer, inputs[0])
            if sizes.setdefault(name, size) != size:
                raise ValueError(
                    f"layer {name} is used at two sizes, {sizes[name]} and {size}: it has no one operator"
                )

        return hook

    handles = [
        module.register_forward_pre_hook(hook_for(name, layer))
        for name, (module, layer) in layers.items()
        if name not in sizes
    ]
    try:
        with eval_mode(network), torch.no_grad():
            network(example_input, *labels)
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for name in layers if name not in sizes]
    if unused:
        raise ValueError(
            f"layer {unused[0]} takes no part in a pass of example_input: its input size is unknown"
        )
    return sizes


def _spatial_size(layer: nn.Module, inputs: Tensor) -> tuple[int, ...]:
    """Of a convolution's input, with a batch axis or without."""
    return tuple(inputs.shape[-len(layer.kernel_size) :])  # type: ignore[arg-type]


@dataclass(frozen=True)
class _InputSizeCheck:
    """Refuses inputs of another size than the one that a layer's sigma is for."""

    layer: str
    size: tuple[int, ...]

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = tuple(inputs[0].shape[-len(self.size) :])
        if size != self.size:
            raise ValueError(
                f"layer {self.layer or '(root)'} is normalized for inputs of size {self.size}, not {size}: "
                "normalize the network with an example_input of that size"
            )


def normalized_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module, SpectralNormalization]]:
    """(dotted name, layer, its norm) of every layer that `normalize` has normalized."""
    for name, layer in weighted_layers(network):
        if parametrize.is_parametrized(layer, "weight"):
            for norm in layer.parametrizations.weight:  # type: ignore[union-attr]
                if isinstance(norm, SpectralNormalization):
                    yield name, layer, norm


def normalized_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor, SpectralNormalization]]:
    """(dotted name, trained weight, its norm) of every weight that is normalized, in layers or not.

    The weight of a part of a packed tensor is a view of the parameter.
    """
    for name, _, tensor, several in _parametrized(network):
        for norm in several:
            if isinstance(norm, SpectralNormalization):
                yield _joined(name, "" if tensor == "weight" else tensor), several.original, norm
            elif isinstance(norm, PackedNorms):
                parts = several.original.chunk(len(PACKED))
                for letter, part, one in zip(PACKED, parts, norm.norms, strict=True):
                    if isinstance(one, SpectralNormalization):
                        yield _joined(name, f"in_proj_{letter}"), part, one


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def _parametrized(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """(name of the module, module, tensor, its parametrizations) of every parametrized tensor."""
    for name, module in network.named_modules():
        parametrizations: Any = getattr(module, "parametrizations", {})
        for tensor, several in parametrizations.items():
            yield name, module, tensor, several


def trained_weight(layer: nn.Module) -> Tensor:
    """The parameter that an optimizer moves: the weight before its norm, or the weight where there is none.

    Where another parametrization makes the weight out of several parameters, that weight.
    """
    is_parametrized = parametrize.is_parametrized(layer, "weight")
    parametrizations = layer.parametrizations.weight if is_parametrized else None  # type: ignore[union-attr]
    weight = getattr(parametrizations, "original", None)
    if weight is None:
        weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def remove(network: nn.Module) -> list[str]:
    """Take the norms off again, leaving the effective weights in place as ordinary parameters.

    Returns the dotted names of the layers. The weights are those of eval mode: nothing moves.
    """
    names = [name for name, _, _ in normalized_tensors(network)]
    for _, module, tensor, (norm, *others) in list(_parametrized(network)):
        if others or not isinstance(norm, OURS):
            continue
        norm.eval()
        order: Any = norm.order
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
        # PyTorch puts it last; an optimizer's state goes by the order.
        before = {name: module._parameters[name] for name in order if name in module._parameters}
        module._parameters = {**before, **module._parameters}
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _InputSizeCheck):
                del module._forward_pre_hooks[key]
    return names


@torch.no_grad()
def sigmas(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The estimates as they stand, `{"sigma/<layer>": scalar}`, and their parts, e.g. `sigma_out/<layer>`.

    A learned scale stands next to them as `gamma/<layer>`. Of numbers by filter these are the means, next to
    the least and the largest, e.g. `sigma_min/<layer>`. `prefix` is put before each layer's name.
    """
    values = {}
    for name, weight, norm in normalized_tensors(network):
        name = prefix + name
        found = {"sigma": norm.estimator(weight), **norm.estimator.parts(weight)}
        if isinstance(norm.scale, Tensor):
            found["gamma"] = norm.scale.detach().clone()
        for part, value in found.items():
            values[f"{part}/{name}"] = value.mean() if value.ndim else value
            if value.ndim:
                values[f"{part}_min/{name}"], values[f"{part}_max/{name}"] = value.aminmax()
    return values


Layer = tuple[SpectralNormalization, Tensor]  # a norm and its trained weight


@dataclass(frozen=True)
class Iterated:
    """The norms of a network after an update's power iterations, and what these have found."""

    alone: list[Layer]
    together: list[tuple[list[Layer], Iterates]]

    @property
    def norms(self) -> list[SpectralNormalization]:
        """All of them, so that nobody walks through the network again."""
        return [norm for layers in (self.alone, *(some for some, _ in self.together)) for norm, _ in layers]


def iterate(network: nn.Module, update: bool = True) -> Iterated:
    """Take the power iterations of an update, of all layers of `network` together; for `cached_weights`.

    In training mode, and if `update`; else nothing moves. No gradient belongs to what this computes.
    """
    layers = [(norm, weight) for _, weight, norm in normalized_tensors(network)]
    alike: dict[Hashable, list[Layer]] = {}
    alone: list[Layer] = []
    with contextlib.nullcontext() if update else _frozen([norm for norm, _ in layers]):
        for norm, weight in layers:
            if norm.is_plain and (parts := len(norm.estimator.singular_values())):
                kind = weight.device, weight.dtype, weight.requires_grad, norm.steps, norm.clips, parts
                alike.setdefault(kind, []).append((norm, weight))
            else:
                alone.append((norm, weight))
        _update(alone)
        return Iterated(
            alone, [(several, iterate_together(*zip(*several, strict=True))) for several in alike.values()]
        )


@contextlib.contextmanager
def cached_weights(
    network: nn.Module, update: bool = True, iterated: Iterated | None = None
) -> Iterator[None]:
    """All effective weights of `network` are made now, once and together, and stand for the block.

    They are the weights that its layers make one by one inside `torch.nn.utils.parametrize.cached()`, at less
    cost; other parametrizations are cached likewise. In training mode, and if `update`, the power iterations
    of an update are taken now, unless `iterate` has taken them; nothing moves inside. The gradient with
    respect to the weights can be taken once.
    """
    if iterated is None:
        iterated = iterate(network, update)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_frozen(iterated.norms))
        made = [(norm, norm(weight)) for norm, weight in iterated.alone]
        for several, found in iterated.together:
            norms, weights = zip(*several, strict=True)
            made += zip(norms, normalized_weights(norms, weights, found), strict=True)
        for norm, effective in made:
            stack.callback(setattr, norm, "effective", None)
            norm.effective = effective
        if has_other_parametrizations(network):
            stack.enter_context(parametrize.cached())
        yield


def sole_norm(layer: nn.Module) -> SpectralNormalization | None:
    """The norm that makes the layer's weight by itself, if one does."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    norm, *others = layer.parametrizations.weight  # type: ignore[union-attr,misc]
    return norm if isinstance(norm, SpectralNormalization) and not others else None


def has_other_parametrizations(network: nn.Module) -> bool:
    """Whether something in it is made by other parametrizations than one norm."""
    return any(
        len(module.parametrizations) > 1 or sole_norm(module) is None  # type: ignore[arg-type]
        for module in network.modules()
        if parametrize.is_parametrized(module)
    )


def _update(layers: Sequence[Layer]) -> None:
    """What the norms of these weights do before an update evaluates them, singular values together."""
    due: dict[tuple[torch.device, torch.dtype, int], list[tuple[LargestSingularValue, Tensor]]] = {}
    for norm, weight in layers:
        if values := norm.estimator.singular_values():
            alike = weight.device, weight.dtype, norm.steps
            due.setdefault(alike, []).extend((value, weight) for value in values)
        else:
            with torch.autocast(weight.device.type, enabled=False):
                norm.update(weight)
    for (device, _, steps), maps in due.items():
        with torch.autocast(device.type, enabled=False):
            for _ in range(steps):
                power_iterate(maps)


def after_update(network: nn.Module) -> None:
    """Move the vectors of plain power iteration, which follow each update of the weights of `network`."""
    for _, weight, norm in normalized_tensors(network):
        norm.estimator.after_update(weight)


def frozen(*networks: nn.Module) -> contextlib.AbstractContextManager[None]:
    """No power iteration inside the block: for passes that do not update these networks."""
    return _frozen([norm for network in networks for _, _, norm in normalized_tensors(network)])


@contextlib.contextmanager
def _frozen(norms: Sequence[SpectralNormalization]) -> Iterator[None]:
    before = [norm.is_frozen for norm in norms]
    for norm in norms:
        norm.is_frozen = True
    try:
        yield
    finally:
        for norm, was_frozen in zip(norms, before, strict=True):
            norm.is_frozen = was_frozen
