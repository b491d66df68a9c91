"""What a GPU may round in float32: TF32 keeps 10 bits of each factor. PyTorch allows it in convolutions."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

_CUDNN: Any = torch.backends.cudnn  # a module that replaces itself by an object


def allow_tf32(is_allowed: bool) -> None:
    """Whether convolutions may use TF32; products of matrices keep all of float32's digits, as by default."""
    _CUDNN.conv.fp32_precision = "tf32" if is_allowed else "ieee"


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inside the block, or in a function so decorated: all of float32's digits, on every kind of GPU."""
    settings = (_CUDNN.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
