"""Graphs on a CPU: what stands in for CUDA's, to show what `GraphedUpdate` does with them."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.operations import Operation, Operations
from gan_lab.training.graph import Values


class CpuGraphs:
    """Records operations with the very tensors that they read and wrote, and repeats them in that memory."""

    def __init__(self) -> None:
        self.recorded: list[int] = []  # how many operations each graph has
        self.repeated = 0

    def ordinary(self, work: Callable[[], Values]) -> Values:
        return work()

    def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
        with _Kept() as kept:
            values = work()
        self.recorded.append(len(kept.operations))
        return functools.partial(self._repeat, kept.operations), values

    @torch.no_grad()
    def _repeat(self, operations: list[Operation]) -> None:
        self.repeated += 1
        for operation in operations:
            made = operation.call(*operation.args, **operation.kwargs)
            results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
            for old, new, is_new in zip(operation.results, results, operation.is_new, strict=True):
                if is_new:
                    old.copy_(new)


class _Kept(Operations):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def note(self, operation: Operation) -> None:
        # What lies in the same memory, with the shapes of now: some views are taken in place later.
        self.operations.append(
            replace(operation, **{name: _aliases(one) for name, one in vars(operation).items()})
        )


def _aliases(values: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, values)
