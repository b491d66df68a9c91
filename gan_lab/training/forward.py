"""How a training pass through a network is computed: its precision, compiled or not."""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from gan_lab import norms
from gan_lab.archs.convolutions import Conv2d, ConvTranspose2d
from gan_lab.layers import WEIGHTED, weighted_layers


@dataclass(frozen=True)
class Execution:
    """The choices of `train.precision` and `train.compile`."""

    precision: str = "fp32"  # fp32 | bf16: convolutions and matrix products by autocast
    compile: bool = False


IN_FULL_PRECISION = Execution()

# What layers compute with their weights only in the precision that autocast has given these.
_CAST_BY_AUTOCAST = {kind.forward for kind in (*WEIGHTED, Conv2d, ConvTranspose2d)}


class Forward:
    """`network` as a function of a batch (and its labels), its output in float32 whatever it was computed in.

    Weights, their gradients, sigmas and what follows the output stay in float32.
    """

    def __init__(self, network: nn.Module, device: torch.device, execution: Execution) -> None:
        self.network = network
        self._autocast: dict[str, Any] = {
            "device_type": device.type,
            "dtype": torch.bfloat16,
            "enabled": execution.precision == "bf16",
        }
        # A compiled pass cannot be differentiated twice, as gradient normalization is.
        compiles = execution.compile and not isinstance(network, norms.GradientNormalized)
        self._compiled = _compiled(network) if compiles else None
        self._hooks = {key for place in _hooks(network) for key in place}

    def __call__(self, *batch: Tensor) -> Tensor:
        if self._compiled is None:
            return self.uncompiled(*batch)
        added = [
            (place, {key: place[key] for key in place.keys() - self._hooks}) for place in _hooks(self.network)
        ]
        if not any(hooks for _, hooks in added):
            return self._as_compiled(*batch)
        # A compiled pass calls no hook that was added after it was compiled: they watch another one.
        with torch.no_grad(), no_statistics(self.network):
            self.uncompiled(*batch)
        for place, hooks in added:
            for key in hooks:
                del place[key]
        try:
            return self._as_compiled(*batch)
        finally:
            for place, hooks in added:
                place.update(hooks)

    def _as_compiled(self, *batch: Tensor) -> Tensor:
        assert self._compiled is not None
        with torch.autocast(**self._autocast), parametrize.cached():
            # The norms stay outside of the graph, which finds the weights that they made.
            for module in self.network.modules():
                for tensor in getattr(module, "parametrizations", ()):
                    getattr(module, tensor)
            return self._compiled(*batch).float()

    def uncompiled(self, *batch: Tensor) -> Tensor:
        """The same pass as operations that can be differentiated twice, which a compiled one cannot."""
        with torch.autocast(**self._autocast), self._cast_weights():
            return self.network(*batch).float()

    def _cast_weights(self) -> contextlib.AbstractContextManager[None]:
        if not self._autocast["enabled"]:
            return contextlib.nullcontext()
        return cast_weights(self.network, self._autocast["dtype"])


def _hooks(network: nn.Module) -> list[dict[int, Any]]:
    """Where those stand that a forward pass calls."""
    return [
        place for module in network.modules() for place in (module._forward_pre_hooks, module._forward_hooks)
    ]


@contextlib.contextmanager
def cast_weights(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside the block weights and biases are of `dtype`, cast together; their gradients are cast back.

    To the numbers that autocast, which casts each by itself, gives their layers. That is left those that
    compute by themselves, or whose weights something else than a norm makes.
    """
    places: list[tuple[dict[str, Any], str]] = []  # where the tensors stand: a name in a dictionary
    normalized = not norms.has_other_parametrizations(network)  # else effective weights are PyTorch's to keep
    for _, layer in weighted_layers(network):
        if type(layer).forward in _CAST_BY_AUTOCAST:
            places += [(layer._parameters, "weight"), (layer._parameters, "bias")]
            if normalized and (norm := norms.sole_norm(layer)):
                places.append((vars(norm), "effective"))
    places = [(place, name) for place, name in places if _is_full(place.get(name))]
    full = [place[name] for place, name in places]
    for (place, name), cast in zip(places, _Cast.apply(dtype, *full) if full else (), strict=True):
        place[name] = cast
    try:
        yield
    finally:
        for (place, name), tensor in zip(places, full, strict=True):
            place[name] = tensor


def _is_full(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.dtype == torch.float32


class _Cast(torch.autograd.Function):
    """Tensors of one precision in another, all in one operation."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.before = tensors[0].dtype
        cast = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(cast, tensors)
        return tuple(cast)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [gradient for gradient in gradients if gradient is not None]
        cast = iter(_Cast.apply(ctx.before, *there) if there else ())
        return None, *(None if gradient is None else next(cast) for gradient in gradients)


def needs_labels(network: nn.Module) -> bool:
    """Whether a network is called with classes after its images or latents."""
    kind = network.plain_class() if isinstance(network, norms.GradientNormalized) else type(network)
    parameters = inspect.signature(kind.forward).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(required) > 2  # next to `self`


@contextlib.contextmanager
def no_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms normalize by their batch inside the block, and keep nothing of it for eval mode."""
    keeping = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in keeping:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in keeping:
            module.track_running_stats = True


def scores_are_per_sample(discriminator: nn.Module, images: Tensor, *labels: Tensor) -> bool:
    """Whether each image's score depends on that image only, and not, as under batch norm, on its batch.

    Seen in the gradient of one score with respect to a few `images` `[B, 3, H, W]`, any but constant ones.
    The discriminator and the random streams are as before.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in discriminator.modules()):
        return False  # without a pass, in which the ranks' batch norms would wait for each other
    buffers = [(buffer, buffer.clone()) for buffer in discriminator.buffers()]
    images = images.detach().requires_grad_()
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), norms.frozen(discriminator):
        (gradient,) = torch.autograd.grad(discriminator(images, *labels)[0], images)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return bool(gradient[0].any() and not gradient[1:].any())


def _compiled(network: nn.Module) -> Any:
    import torch._dynamo
    import torch._functorch.config

    # Backward passes would else free what the probes differentiate a second time.
    torch._functorch.config.donated_buffer = False
    # With and without gradients, in a D or a G step: beyond this many variants it gives up in silence.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(network, dynamic=False)
