"""Where a training's tensors lie, so that its iterations can be repeated on the same memory."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_leaves, tree_map


def make_capturable(optimizer: torch.optim.Optimizer, decays: bool) -> None:
    """Let its steps be part of a CUDA graph; to be called before a scheduler `decays` its learning rates."""
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        if decays:  # a number would stay what it was when the graph was captured
            group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a copy of a state of any device: how this one takes its steps stays as it is."""
    before: list[tuple[Any, dict[str, Any]]] = [
        (group["lr"], {key: group[key] for key in ("capturable", "initial_lr") if key in group})
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(copy.deepcopy(dict(state)))  # PyTorch's own would share tensors with it
    for group, (lr, kept) in zip(optimizer.param_groups, before, strict=True):
        group["lr"] = lr.fill_(group["lr"]) if isinstance(lr, Tensor) else float(group["lr"])
        group |= kept


def load_scheduler(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Load a state of any device; to be called after its optimizer is loaded."""
    base_lrs = scheduler.base_lrs  # the config's, on this device
    scheduler.load_state_dict(dict(state))
    scheduler.base_lrs = base_lrs
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state, e.g. of `Gan.state_dict()`: not copies, but what it lies in."""
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def copy_into(memory: list[Tensor], tensors: list[Tensor]) -> None:
    """The values of `tensors`, for each in `memory`."""
    with torch.no_grad():
        torch._foreach_copy_(memory, tensors)


class Snapshot:
    """A copy of a state, in memory that is kept for the next one."""

    def __init__(self) -> None:
        self.state: Any = None

    def take(self, state: Any) -> None:
        """Copy all of a state, the tensors into the memory of the last one where they are alike."""
        new, kept = tensors_of(state), tensors_of(self.state)
        if [_kind(one) for one in new] != [_kind(one) for one in kept]:
            self.state = None  # two of them would be the most that memory ever holds
            kept = [one.detach().clone() for one in new]
        elif new:
            copy_into(kept, new)
        memory = iter(kept)
        self.state = tree_map(lambda leaf: next(memory) if isinstance(leaf, Tensor) else leaf, state)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.dtype, tensor.shape, tensor.stride()


class SideStream:
    """A GPU's second queue, for small operations next to large ones; on other devices nothing.

    Only for what needs no gradient: autograd would go back on this stream, next to the large operations,
    into memory that these still read, because what is allocated here is given back by the host's order of
    calls.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextlib.contextmanager
    def fork(self) -> Iterator[None]:
        """What is called inside the block runs there, after all that was called before."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What is called from now on waits for what runs there."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
