"""The weights of a network that a norm can take: of layers, embeddings, attention, and registered modules."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from gan_lab.layers import WEIGHTED

log = logging.getLogger(__name__)

Selection = str | Sequence[str] | Callable[[str, nn.Module], bool] | None

PACKED = ("q", "k", "v")  # what attention's `in_proj_weight` holds below each other

_REGISTERED: dict[type[nn.Module], tuple[Callable[[nn.Module], nn.Module], str]] = {}


def register(kind: type[nn.Module], like: Callable[..., nn.Module], tensor: str = "weight") -> None:
    """Let norms take the weight that modules of this kind compute with by themselves.

    `like(module)` makes a linear or convolution layer that the weight `tensor` could be of: its shape, its
    stride, padding, dilation and groups say what the weight means; its values are not read. A modulated
    convolution (StyleGAN2) that multiplies its weight by a style in its forward pass:

        norms.register(ModulatedConv2d, lambda m: nn.Conv2d(m.in_channels, m.out_channels, 3, padding=1))

    What is normalized is the weight that is stored, so that a bound on it holds before the modulation.
    """
    _REGISTERED[kind] = like, tensor


@dataclass(frozen=True)
class Site:
    """One weight, or one of several that a module keeps in one tensor."""

    name: str  # dotted: the module's, with the tensor's where that is not `weight`
    module: nn.Module
    tensor: str
    layer: nn.Module  # linear or convolution, whose weight this is or could be
    part: int | None = None  # which of the `PACKED`


def sites(network: nn.Module) -> Iterator[Site]:
    """All weights of a network that a norm can take, in the order of its modules.

    Raises ValueError where a registered layer's weight is of another shape than the module's.
    """
    for name, module in network.named_modules():
        if isinstance(module, WEIGHTED):
            yield Site(name, module, "weight", module)
        elif isinstance(module, nn.Embedding):
            yield Site(name, module, "weight", _linear(_stored(module, "weight")))
        elif isinstance(module, nn.MultiheadAttention):
            yield from _of_attention(name, module)
        elif kind := next((kind for kind in type(module).__mro__ if kind in _REGISTERED), None):
            yield _registered(name, module, *_REGISTERED[kind])


def _of_attention(name: str, module: nn.MultiheadAttention) -> Iterator[Site]:
    for part, letter in enumerate(PACKED):
        tensor = "in_proj_weight" if module._qkv_same_embed_dim else f"{letter}_proj_weight"
        index = part if module._qkv_same_embed_dim else None
        weight = _stored(module, tensor)
        own = weight if index is None else weight.chunk(len(PACKED))[index]
        called = tensor if index is None else f"in_proj_{letter}"
        yield Site(_joined(name, called), module, tensor, _linear(own), index)


def _registered(name: str, module: nn.Module, like: Callable[..., nn.Module], tensor: str) -> Site:
    weight = _stored(module, tensor)
    with torch.device("meta"):  # nothing is drawn for its values
        layer = like(module)
    if not isinstance(layer, WEIGHTED) or layer.weight.shape != weight.shape:
        raise ValueError(
            f"layer {name or '(root)'} ({type(module).__name__}) is registered as {layer}, whose weight is "
            f"not of the shape {tuple(weight.shape)} of its {tensor}"
        )
    return Site(name if tensor == "weight" else _joined(name, tensor), module, tensor, _with(layer, weight))


def _stored(module: nn.Module, tensor: str) -> Tensor:
    """A tensor as it is stored: evaluating one that is parametrized might move something."""
    parametrizations = getattr(module, "parametrizations", {})
    stored = parametrizations[tensor].original if tensor in parametrizations else getattr(module, tensor)
    assert isinstance(stored, Tensor)
    return stored


def _linear(weight: Tensor) -> nn.Module:
    outputs, inputs = weight.shape
    return _with(nn.Linear(inputs, outputs, bias=False, device="meta"), weight)


def _with(layer: nn.Module, weight: Tensor) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def selected(found: Sequence[Site], layers: Selection) -> list[Site]:
    """Those that `layers` chooses: by name, pattern, several of these, or a function of name and module.

    A weight that is not called `weight` goes by its module's name too. Raises ValueError for a name
    or pattern that is of none.
    """
    if layers is None:
        return list(found)
    if callable(layers):
        return [site for site in found if layers(site.name, site.module)]
    patterns = [layers] if isinstance(layers, str) else list(layers)
    names = {site: {site.name, _of_module(site)} for site in found}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for both in names.values() for name in both):
            choices = ", ".join(site.name or "(root)" for site in found)
            raise ValueError(f"layers={pattern!r} is no layer that a norm can take: they are {choices}")
    return [s for s in found if any(fnmatchcase(name, pattern) for name in names[s] for pattern in patterns)]


def _of_module(site: Site) -> str:
    return site.name if site.tensor == "weight" else site.name.rpartition(".")[0]


def name_the_unknown(network: nn.Module, found: Sequence[Site]) -> None:
    """A line in the log for each kind of module whose matrices a norm leaves alone."""
    taken = {(site.module, site.tensor) for site in found}
    alike: dict[tuple[str, str], list[str]] = {}
    for name, module in network.named_modules():
        left = [
            key
            for key, value in module.named_parameters(recurse=False)
            if value.ndim > 1 and (module, key) not in taken
        ]
        if left:
            alike.setdefault((type(module).__name__, ", ".join(left)), []).append(name or "(root)")
    for (kind, tensors), (first, *others) in alike.items():
        layers = (
            f"{1 + len(others)} layers like {first} ({kind}) are" if others else f"layer {first} ({kind}) is"
        )
        log.warning("%s of no kind that a norm knows: %s left alone", layers, tensors)
