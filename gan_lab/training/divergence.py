"""Noticing divergence without waiting for the device, and naming where it began."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from gan_lab.distributed import collectives
from gan_lab.layers import weighted_layers


class Diverged(Exception):
    """A quantity is not finite, or beyond its bound; names the iteration, the quantity and the layer."""

    def __init__(self, iteration: int, quantity: str, value: float, layer: str, bound: float) -> None:
        self.iteration, self.quantity, self.layer = iteration, quantity, layer
        beyond = f", beyond train.max_score={bound:g}" if math.isfinite(value) else ""
        where = f"; it began in {layer}" if layer else ""
        super().__init__(f"{quantity} is {value:g} at iteration {iteration}{beyond}{where}")


class Watch:
    """Keeps the worst of the scalars that it is shown, on the device; NaN is worse than everything."""

    def __init__(self, bound: float, device: torch.device) -> None:
        self._bound = bound
        self._worst = torch.zeros((), device=device)

    def see(self, values: Mapping[str, Tensor]) -> None:
        """Look at the losses and scores of one iteration, without synchronizing."""
        self._worst = torch.maximum(self._worst, torch.stack(list(values.values())).abs().max())

    def is_fine(self, *networks: nn.Module) -> bool:
        """Whether all that was seen lies within the bound and all weights are finite; this synchronizes."""
        return bool(self._worst <= self._bound) and is_finite(*networks)


def is_finite(*networks: nn.Module) -> bool:
    """Whether all weights are finite; this synchronizes."""
    parameters = [parameter.detach() for network in networks for parameter in network.parameters()]
    return bool(torch.stack(torch._foreach_norm(parameters, ord=math.inf)).max().isfinite())


def problem(
    values: Mapping[str, Tensor], generator: nn.Module, discriminator: nn.Module, bound: float
) -> tuple[str, float, str] | None:
    """(quantity, value, layer) of an iteration's first loss, score, gradient or weight that is bad.

    They are looked at in the order in which an iteration computes them, so that the cause comes before what
    follows from it. `layer` is empty for losses and scores: `tracing` finds it.
    """
    of_generator = {name: value for name, value in values.items() if name == "loss/g"}
    of_discriminator = {name: value for name, value in values.items() if name not in of_generator}
    return (
        _bad_value(of_discriminator, bound)
        or _bad_tensor("discriminator", discriminator)
        or _bad_value(of_generator, bound)
        or _bad_tensor("generator", generator)
    )


def _bad_value(values: Mapping[str, Tensor], bound: float) -> tuple[str, float, str] | None:
    for name, value in values.items():
        if not abs(number := value.item()) <= bound:
            return name, number, ""
    return None


def _bad_tensor(network_name: str, network: nn.Module) -> tuple[str, float, str] | None:
    """The first gradient that is not finite, or else the first weight."""
    parameters = list(network.named_parameters())[::-1]  # a backward pass meets the last layers first
    tensors = [("gradient", name, parameter.grad) for name, parameter in parameters]
    tensors += [("weight", name, parameter) for name, parameter in parameters]
    for kind, name, tensor in tensors:
        if tensor is not None and not math.isfinite(largest := tensor.detach().abs().max().item()):
            return f"{kind} of the {network_name}'s {name}", largest, f"{network_name}.{_layer(name)}"
    return None


def _layer(parameter: str) -> str:
    """`block1.conv1` for `block1.conv1.weight` and `block1.conv1.parametrizations.weight.original`."""
    return parameter.split(".parametrizations")[0].removesuffix(".weight").removesuffix(".bias")


@contextlib.contextmanager
def tracing(networks: Mapping[str, nn.Module]) -> Iterator[Callable[[], str]]:
    """Inside the block, watch the layers' outputs; the yielded function names the layer where it went wrong.

    That is the first with an output that is not finite, else the one that grew its input most; on any rank.
    """
    first_bad: list[str] = []
    growth: dict[str, float] = {}

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.isfinite().all():
                first_bad.append(name)
            else:
                size_in, size_out = inputs[0].detach().double().norm(), output.detach().double().norm()
                growth[name] = max(growth.get(name, 0.0), (size_out / size_in.clamp_min(1e-12)).item())

        return hook

    handles = [
        layer.register_forward_hook(hook_for(f"{network_name}.{name}"))
        for network_name, network in networks.items()
        for name, layer in weighted_layers(network)
    ]

    def culprit() -> str:
        seen = collectives.gather_objects((first_bad[:1], growth))
        bad = [name for names, _ in seen for name in names]
        largest = {name: max(grown.get(name, 0.0) for _, grown in seen) for name in growth}
        return bad[0] if bad else max(largest, key=largest.__getitem__, default="")

    try:
        yield culprit
    finally:
        for handle in handles:
            handle.remove()
