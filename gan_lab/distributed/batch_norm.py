"""Batch norm over the images of all ranks."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan_lab.distributed import collectives, env


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance, in training mode, are those of all ranks' images together.

    PyTorch's own refuses the CPU, and on a GPU makes the host wait for it in every pass. Parameters, buffers
    and eval mode are as in any batch norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # any number of dimensions

    def forward(self, input: Tensor) -> Tensor:
        """`[B / ranks, C, ...]` to the same shape."""
        if not self.training:
            return super().forward(input)
        axes, shape = [0, *range(2, input.ndim)], [1, -1] + [1] * (input.ndim - 2)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        mean = collectives.mean(wide.mean(axes))
        centred = wide - mean.view(shape)
        variance = collectives.mean(centred.square().mean(axes))  # biased, as batch norm divides by it
        self._keep(mean, variance, env.world_size() * input.numel() // input.shape[1])
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        output = centred * scale.view(shape)
        if self.affine:
            output = output + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, the variance without bias."""
        if not self.track_running_stats:
            return
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:  # an average over all batches
            momentum = 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)


def synchronize(network: nn.Module) -> None:
    """Turn every batch norm of `network` into a synchronized one; its parameters stay the same objects."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SynchronizedBatchNorm
