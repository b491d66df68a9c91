"""Putting a norm on a network, taking it off, and reading its sigmas."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_lab.kernels import weighted_layers
from gan_lab.norms.parametrization import SpectralNormalization
from gan_lab.norms.sigma import SigmaEstimator


def normalize(
    network: nn.Module,
    estimator: Callable[[nn.Module], SigmaEstimator],
    scale: float = 1.0,
    n_power_iterations: int = 1,
    warmup_iterations: int = 15,
) -> list[str]:
    """Normalize every linear, convolution and transposed convolution layer of `network`, in place.

    `estimator` makes a layer's sigma, e.g. `SigmaOut`; the effective weight is `scale · W / sigma`.
    `warmup_iterations` power iterations run now, so that sigma is right from the first batch.
    Returns the dotted names of the normalized layers. Raises ValueError where a layer is normalized already.
    """
    names = []
    for name, layer in list(weighted_layers(network)):
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"layer {name or '(root)'} has a parametrized weight already; remove it first")
        assert isinstance(layer.weight, Tensor)
        sigma = estimator(layer)
        for _ in range(warmup_iterations):
            sigma.power_iterate(layer.weight)
        norm = SpectralNormalization(sigma, scale, n_power_iterations)
        # Registering evaluates the weight; it shall not cost a power iteration.
        parametrize.register_parametrization(layer, "weight", norm.eval())
        norm.train(layer.training)
        names.append(name)
    return names


def normalized_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module, SpectralNormalization]]:
    """(dotted name, layer, its norm) of every layer that `normalize` has normalized."""
    for name, layer in weighted_layers(network):
        if parametrize.is_parametrized(layer, "weight"):
            for norm in layer.parametrizations.weight:  # type: ignore[union-attr]
                if isinstance(norm, SpectralNormalization):
                    yield name, layer, norm


def remove(network: nn.Module) -> list[str]:
    """Take the norms off again, leaving the effective weights in place as ordinary parameters.

    Returns the dotted names of the layers. The weights are those of eval mode: nothing moves.
    """
    names = []
    for name, layer, norm in list(normalized_layers(network)):
        norm.eval()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        names.append(name)
    return names


@torch.no_grad()
def sigmas(network: nn.Module) -> dict[str, Tensor]:
    """The estimates as they stand, `{"sigma/<layer>": scalar}`, with `sigma_out/` and other parts beside."""
    values = {}
    for name, layer, norm in normalized_layers(network):
        weight = layer.parametrizations.weight.original  # type: ignore[union-attr]
        values[f"sigma/{name}"] = norm.estimator(weight)
        for part, value in norm.estimator.parts(weight).items():
            values[f"{part}/{name}"] = value
    return values


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No power iteration inside the block: for passes that do not update this network."""
    norms = [norm for _, _, norm in normalized_layers(network)]
    before = [norm.is_frozen for norm in norms]
    for norm in norms:
        norm.is_frozen = True
    try:
        yield
    finally:
        for norm, was_frozen in zip(norms, before, strict=True):
            norm.is_frozen = was_frozen
