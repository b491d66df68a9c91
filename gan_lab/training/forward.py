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


@dataclass(frozen=True)
class Execution:
    """The choices of `train.precision`, `train.compile` and `train.cuda_graphs`."""

    precision: str = "fp32"  # fp32 | bf16: convolutions and matrix products by autocast
    compile: bool = False
    cuda_graphs: bool = False  # of the compiled passes, forward and backward


IN_FULL_PRECISION = Execution()


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
        self._compiled = _compiled(network, execution.cuda_graphs) if compiles else None

    def __call__(self, *batch: Tensor) -> Tensor:
        if self._compiled is None:
            return self.uncompiled(*batch)
        with torch.autocast(**self._autocast), parametrize.cached():
            # The norms stay outside of the graph, which finds the weights that they made.
            for _, layer, _ in norms.normalized_layers(self.network):
                layer.weight  # noqa: B018
                layer.bias  # noqa: B018
            return self._compiled(*batch).float()

    def uncompiled(self, *batch: Tensor) -> Tensor:
        """The same pass as operations that can be differentiated twice, which a compiled one cannot."""
        with torch.autocast(**self._autocast):
            return self.network(*batch).float()


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


def _compiled(network: nn.Module, cuda_graphs: bool) -> Any:
    # Backward passes would else free what the probes differentiate a second time.
    torch._functorch.config.donated_buffer = False
    # With and without gradients, in a D or a G step: beyond this many variants it gives up in silence.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(network, dynamic=False, mode="reduce-overhead" if cuda_graphs else None)
