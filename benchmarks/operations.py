"""The operations of an iteration: how many kernels it launches at least, and what they are.

On a GPU the host needs 5 to 10 µs for an operation and a graph 1 to 2 µs, whatever it computes: small
networks wait for that. The counts are exact, and the same on every machine with the same PyTorch.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.gans import gan_for, iterate
from benchmarks.rows import Row

NORMS = ("none", "sn", "ssn", "bsn", "bssn", "strict_sn")
PRECISIONS = ("fp32", "bf16")
# Neither the batch nor the channels change what operations there are.
NETS = {
    "cnn32": ("dataset=cifar10", "arch.width=0.25", "train.batch_size=2", "device=cpu"),
    "resnet32": ("dataset=cifar10", "arch=resnet", "arch.width=0.25", "train.batch_size=2", "device=cpu"),
}
NO_KERNEL = ("profiler::", "aten::promote_types", "aten::empty", "aten::new_empty")


@dataclass(frozen=True)
class Operation:
    """A call of an operation that computes something, and is no view of what it is given."""

    call: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Tensor]
    is_new: list[bool]  # whether a result is new memory, and not that of an argument

    def __str__(self) -> str:
        """The operation with its sizes and numbers, but not what is in its tensors."""
        described = tree_map(
            lambda leaf: (leaf.dtype, tuple(leaf.shape), leaf.stride()) if isinstance(leaf, Tensor) else leaf,
            (self.args, self.kwargs),
        )
        return f"{self.call.name()} {described}"


class Operations(TorchDispatchMode):
    """Inside it the operations of this thread are noted, those of backward passes too.

    As texts: autograd copies a gradient that somebody else holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        is_new = [_memory(one) not in given for one in results]
        is_view = not any(is_new) and (torch.Tag.inplace_view in func.tags or not func._schema.is_mutable)
        if not is_view and not func.name().startswith(NO_KERNEL):
            self.note(Operation(func, args, kwargs or {}, results, is_new))
        return result

    def note(self, operation: Operation) -> None:
        self.seen.append(str(operation))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def operations_of(overrides: Sequence[str]) -> list[str]:
    """The operations of a config's third iteration: by then all that is made once is there."""
    with tempfile.TemporaryDirectory() as folder:
        gan, _ = gan_for(overrides, Path(folder))
        for _ in range(2):
            iterate(gan)
        with Operations() as operations:
            iterate(gan)
    return operations.seen


def counts() -> Iterator[Row]:
    """`ops/<net>/<norm>/<precision>`: of an iteration on a CPU, draws included; `_foreach_` is one."""
    for net, overrides in NETS.items():
        for norm in NORMS:
            for precision in PRECISIONS:
                chosen = (*overrides, f"norm={norm}", f"train.precision={precision}")
                yield Row(f"ops/{net}/{norm}/{precision}", len(operations_of(chosen)), "operations")
