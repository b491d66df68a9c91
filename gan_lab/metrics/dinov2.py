"""DINOv2 as the judge of FD-DINOv2: torch-fidelity's preparation of images, timm's network, Meta's weights.

torch-fidelity itself has torch.hub fetch the network's source and run it, which nothing here does.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_lab.errors import UserError

MODELS = {"s": "vit_small", "b": "vit_base", "l": "vit_large"}
SIZE, PATCH = 224, 14  # pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of colours from 0 to 1
AT_ONCE_ON_CPU = 8


class DinoV2(nn.Module):
    """uint8 images `[B, 3, H, W]` to the normalized class tokens `[B, F]`, as features and as logits."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        at_once = AT_ONCE_ON_CPU if images.device.type == "cpu" else len(images)
        features = torch.cat([self._features(some) for some in images.split(at_once)])
        return features, features

    def _features(self, images: Tensor) -> Tensor:
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (SIZE, SIZE), align_corners=False)
        return self.network.forward_features((resized - self.mean) / self.std)[:, 0]


def published(size: str) -> str:
    """The address of the published weights of a size, s, b or l."""
    name = f"dinov2_vit{size}14"
    return f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth"


def load(content: bytes, size: str, path: Path) -> tuple[DinoV2, str]:
    """The network of a size with the weights in a file's content, and their SHA-256.

    `content` holds tensors only, which was checked. Raises UserError where it has others, or without timm.
    """
    try:
        import timm
    except ImportError as error:
        how = "pip install -e '.[judges]' in gan-lab's folder"
        raise UserError(f"metrics=dinov2 needs timm ({error}): {how}") from error
    network = timm.create_model(f"{MODELS[size]}_patch14_dinov2", pretrained=False, img_size=SIZE)
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    state.pop("mask_token", None)  # of training
    try:
        state["pos_embed"] = positions(state["pos_embed"])
        network.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} does not hold the weights of DINOv2 in size {size}: give another file"
        ) from error
    return DinoV2(network), hashlib.sha256(content).hexdigest()


def positions(embedding: Tensor) -> Tensor:
    """The position embedding `[1, 1 + n², F]` for images of 224 pixels, `[1, 257, F]`, as DINOv2 resizes it.

    Bicubic, not antialiased, by a scale of (16 + 0.1)/n, which is not that of the sizes (Oquab et al. 2023,
    the published code).
    """
    token, grid = embedding[:, :1].float(), embedding[:, 1:].float()
    side, wanted = round(grid.shape[1] ** 0.5), SIZE // PATCH
    if side != wanted:
        square = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resized = F.interpolate(square, scale_factor=(wanted + 0.1) / side, mode="bicubic")
        grid = resized.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([token, grid], dim=1)
