"""The device that a run computes on, and how this process is set up for it."""

import contextlib
import ctypes
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_lab.distributed import env
from gan_lab.errors import UserError, first_line

_CUDNN: Any = torch.backends.cudnn  # a module that replaces itself by an object, as does the next
_PRODUCTS: Any = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]

ALIGNMENT = 512  # bytes, of a GPU's own allocations

# <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a GPU where there is one. Raises UserError where it is not here.

    Of several ranks, each takes the GPU of its number on its host. A GPU becomes the current one, which is
    what `cuda` means to whoever gives no number (NCCL, streams and graphs); here it means the first.
    """
    if env.world_size() > 1:
        name = _of_this_rank(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise UserError(f"device={name} cannot be used here ({reason}): take device=auto") from error
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    return device


def _of_this_rank(name: str) -> str:
    if name not in ("auto", "cuda", "cpu"):
        raise UserError(
            f"device={name} is one device for {env.world_size()} ranks: take device=auto, cuda or cpu"
        )
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    rank, here = env.local_rank(), torch.cuda.device_count()
    if rank >= here:
        raise UserError(
            f"rank {rank} of this host has no GPU, of which there are {here}: start as many ranks on a host "
            "as it has GPUs, or take device=cpu"
        )
    return f"cuda:{rank}"


def hardware(device: torch.device) -> dict[str, str]:
    """What else decides the bits: `gpu` (its name), `driver`, `cuda` and `cudnn`; nothing of a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "driver": _driver(),
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or ""),
    }


def _driver(said: Path = Path("/proc/driver/nvidia/version")) -> str:
    """NVIDIA's, as the kernel module says it; empty where there is none."""
    with contextlib.suppress(OSError):
        if found := re.search(r"\b\d+\.\d+(\.\d+)?\b", said.read_text(encoding="utf-8")):
            return found[0]
    return ""


def prepare_process(device: torch.device, tf32: bool = True, compile: bool = False) -> None:
    """The same seed shall give the same run, bit for bit, on one machine; and fast, where that allows it.

    `tf32` and `compile` are those of `train`.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition for determinism
    torch.set_deterministic_debug_mode("warn")
    # Nothing reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    allow_tf32(tf32)
    torch.set_float32_matmul_precision("highest")  # whatever the environment or a library has set
    if compile:
        # The same for the compiler, which this call imports.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.compiler.reset()  # what earlier runs of a sweep left counts against its limits
    if device.type == "cpu":  # a GPU's tensors come from PyTorch's own allocator
        keep_freed_memory()


Upload = Callable[[], list[Tensor | None]]


def prepare_upload(tensors: Sequence[Tensor | None], device: torch.device) -> Upload:
    """A function that gives these tensors of the host on the device.

    For a GPU they are packed now, by whichever thread this is, into one pinned buffer, which crosses in one
    copy when the function is called; the host does not wait for the GPU's queue.
    """
    if device.type != "cuda":
        return lambda: [None if tensor is None else tensor.to(device) for tensor in tensors]
    rows = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors if tensor is not None]
    padded = [F.pad(row, (0, -len(row) % ALIGNMENT)) for row in rows]
    buffer = torch.cat(padded).pin_memory()

    def upload() -> list[Tensor | None]:
        pieces = iter(buffer.to(device, non_blocking=True).split([len(row) for row in padded]))
        return [None if tensor is None else _like(tensor, next(pieces)) for tensor in tensors]

    return upload


def _like(tensor: Tensor, piece: Tensor) -> Tensor:
    """What the bytes at the beginning of a piece are of the tensor's type and shape."""
    return piece[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; the host does not wait for a GPU's queue."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def allow_tf32(is_allowed: bool) -> None:
    """Whether a GPU's convolutions may use TF32, which keeps 10 bits of each factor, as PyTorch's do.

    Products of matrices keep all of float32's digits, as by default.
    """
    with warnings.catch_warnings(action="ignore"):  # it is deprecated, and yet compared with the new switches
        _CUDNN.allow_tf32 = is_allowed
    for setting in (_CUDNN.conv, _CUDNN.rnn):
        setting.fp32_precision = "tf32" if is_allowed else "ieee"


@contextlib.contextmanager
def full_precision(tf32_convolutions: bool = False) -> Iterator[None]:
    """Inside the block, or in a function so decorated: all of float32's digits, on every kind of GPU.

    With `tf32_convolutions` in all but the convolutions, whatever they are allowed outside.
    """
    wanted = "tf32" if tf32_convolutions else "ieee"
    conv, matmul = _CUDNN.conv.fp32_precision, [product.fp32_precision for product in _PRODUCTS]
    switch = torch.get_float32_matmul_precision()  # of all products, which PyTorch compares with the others
    if conv != wanted:
        _CUDNN.conv.fp32_precision = wanted
    if set(matmul) != {"ieee"}:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if conv != wanted:
            _CUDNN.conv.fp32_precision = conv
        if set(matmul) != {"ieee"}:
            torch.set_float32_matmul_precision(switch)
            for product, precision in zip(_PRODUCTS, matmul, strict=True):
                product.fp32_precision = precision


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next tensor; elsewhere than on Linux nothing is done.

    By default blocks over 32 MB, and what lies free beyond 64 MB, go back to the kernel, which hands them out
    again zeroed page by page: on a CPU a tenth of a large network's step. A process then does not shrink
    from its peak.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_gpu_memory() -> None:
    """Let other runs on the same GPU have what this process holds of its memory and no tensor needs."""
    torch.cuda.empty_cache()  # does nothing where no GPU is used
