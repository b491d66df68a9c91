"""Noticing divergence without waiting for the device, and naming where it began."""

import contextlib
import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from gan_lab.distributed import collectives
from gan_lab.layers import weighted_layers
from gan_lab.probes import is_finite
from gan_lab.training.gan import Gan
from gan_lab.training.memory import Snapshot

log = logging.getLogger(__name__)


class Diverged(Exception):
    """A quantity is not finite, or beyond its bound; names the iteration, the quantity and the layer."""

    def __init__(self, iteration: int, quantity: str, value: float, layer: str, bound: float) -> None:
        self.iteration, self.quantity, self.layer = iteration, quantity, layer
        beyond = f", beyond train.max_score={bound:g}" if math.isfinite(value) else ""
        where = f"; it began in {layer}" if layer else ""
        super().__init__(f"{quantity} is {value:g} at iteration {iteration}{beyond}{where}")


class DivergenceMonitor:
    """Watches losses, scores and weights of a `Gan`; keeps its last sound state, to go back to.

    `max_score` bounds losses and mean scores. With `stop` false divergence is noted in `diverged_by`, the
    iteration by which it was noticed, and training continues; then no state is kept. Of sound states at least
    `keep_every` iterations apart one is kept.
    """

    def __init__(self, gan: Gan, max_score: float, stop: bool = True, keep_every: int = 1) -> None:
        self.diverged_by: int | None = None
        self._gan = gan
        self._max_score = max_score
        self._stop = stop
        self._worst = torch.zeros((), device=gan.device)  # NaN is worse than everything
        self._keep_every = keep_every
        self._snapshot = Snapshot()
        self._keep()

    def see(self, values: Mapping[str, Tensor]) -> None:
        """Look at the losses and scores of one iteration; the host does not wait for the device."""
        seen = [value for name, value in values.items() if name.startswith(("loss/", "score/"))]
        torch.maximum(self._worst, torch.stack(seen).abs().max(), out=self._worst)

    def is_healthy(self) -> bool:
        """Whether all that was seen lies within the bound and all weights are finite; the host waits."""
        return bool(self._worst <= self._max_score) and is_finite(
            self._gan.generator, self._gan.discriminator
        )

    def check(self) -> None:
        """Keep a sound state; else raise Diverged, with the `Gan` back before its first bad iteration."""
        if self.is_healthy():
            self._keep()
        elif self._stop:
            raise self._replay()
        elif self.diverged_by is None:
            self.diverged_by = self._gan.iteration
            log.warning("diverged by iteration %d, and training continues", self.diverged_by)

    def _keep(self) -> None:
        kept = self._snapshot.state
        if self._stop and (kept is None or self._gan.iteration - kept["iteration"] >= self._keep_every):
            self._snapshot.take(self._gan.state_dict())

    def _replay(self) -> Diverged:
        """Repeat the iterations since the last sound state, to find the first bad one; go back before it.

        Repeating gives the same bits, so that not every iteration has to be checked while all is well.
        """
        gan, last, bound = self._gan, self._gan.iteration, self._max_score
        gan.load_state_dict(self._snapshot.state)
        while gan.iteration < last:
            before, iteration = copy.deepcopy(gan.state_dict()), gan.iteration + 1
            with trace_layers({"generator": gan.generator, "discriminator": gan.discriminator}) as layer_of:
                values = gan.update(gan.draw(iteration))
                bad = first_bad_quantity(values, gan.generator, gan.discriminator, bound)
                if bad is None:
                    continue
                quantity, value, layer = bad
                layer = layer or layer_of()
            gan.load_state_dict(before)
            return Diverged(iteration, quantity, value, layer, bound)
        return Diverged(last, "a loss, a score or a weight (but not when repeated)", math.nan, "", bound)


def first_bad_quantity(
    values: Mapping[str, Tensor], generator: nn.Module, discriminator: nn.Module, bound: float
) -> tuple[str, float, str] | None:
    """(quantity, value, layer) of an iteration's first loss, score, gradient or weight that is bad.

    They are looked at in the order in which an iteration computes them, so that the cause comes before what
    follows from it. `layer` is empty for losses and scores: `trace_layers` finds it.
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
def trace_layers(networks: Mapping[str, nn.Module]) -> Iterator[Callable[[], str]]:
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

    def diverging_layer() -> str:
        seen = collectives.gather_objects((first_bad[:1], growth))
        bad = [name for names, _ in seen for name in names]
        largest = {name: max(grown.get(name, 0.0) for _, grown in seen) for name in growth}
        return bad[0] if bad else max(largest, key=largest.__getitem__, default="")

    try:
        yield diverging_layer
    finally:
        for handle in handles:
            handle.remove()
