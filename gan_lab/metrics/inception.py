"""torch-fidelity's Inception in fewer operations: the same features, sooner."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIZE = 299  # pixels of the images that Inception sees
LAYERS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1",
    "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2",
    "Mixed_5b", "Mixed_5c", "Mixed_5d",
    "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip
# Images that pass through at once on a CPU: of more, an activation takes over 32 MB, which glibc gets anew
# from the kernel, zeroed page by page, each time.
AT_ONCE_ON_CPU = 16


class FoldedInception(nn.Module):
    """uint8 images `[B, 3, H, W]` to FID's features `[B, 2048]` and IS's logits `[B, 1008]`, in float32.

    Of torch-fidelity's network `original`, which is taken apart, with its function to rounding:

    - a batch norm in eval mode is linear, and folded into its convolution;
    - tensors lie channels-last, which convolutions want;
    - resizing is linear and separable, so it is two matrix products (see `resizing`).

    `dtype` is that of the convolutions' weights and activations. In bfloat16 the features are others, by
    0.4% of their norm; resizing, the last average and the logits are in float32 in any case.
    """

    def __init__(self, original: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        _fold_batch_norms(original)
        self.layers = nn.Sequential(*(getattr(original, name) for name in LAYERS))
        self.layers.to(dtype).to(memory_format=torch.channels_last)
        self.logits = original.fc.weight  # [1008, 2048]; without the bias, as in IS's first implementation
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        at_once = AT_ONCE_ON_CPU if images.device.type == "cpu" else len(images)
        features = torch.cat([self._features(some) for some in images.split(at_once)])
        return features, features @ self.logits.T

    def _features(self, images: Tensor) -> Tensor:
        height, width = (resizing(size, SIZE, images.device) for size in images.shape[2:])
        resized = height @ ((images.float() - 128) / 128) @ width.T  # [B, 3, 299, 299]
        activations = self.layers(resized.to(self.dtype, memory_format=torch.channels_last))
        return activations.float().mean(dim=(2, 3))


def resizing(size: int, target: int, device: torch.device) -> Tensor:
    """The matrix `[target, size]` that resizes one dimension bilinearly as TensorFlow 1 does.

    It puts pixel i of the result at i · size / target of the source, without half-pixel centres.
    """
    position = torch.arange(target, device=device, dtype=torch.float32) * (size / target)
    below = position.long()
    above = (below + 1).clamp_max(size - 1)
    share = (position - below)[:, None]
    pixels = torch.eye(size, device=device)
    return pixels[below] * (1 - share) + pixels[above] * share


def _fold_batch_norms(network: nn.Module) -> None:
    """Put Conv2d and ReLU, in place, where torch-fidelity has Conv2d, BatchNorm2d and ReLU."""
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    for name, child in network.named_children():
        if isinstance(child, BasicConv2d):
            folded = nn.Sequential(fuse_conv_bn_eval(child.conv, child.bn), nn.ReLU(inplace=True))
            setattr(network, name, folded)
        else:
            _fold_batch_norms(child)
