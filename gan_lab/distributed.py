"""N ranks that compute what one process would: data parallelism over `torch.distributed`.

What is random is drawn whole by every rank, which takes its `share` of the rows; gradients and losses are
averaged over the ranks, so that weights, optimizers and the norms' vectors move alike on all of them without
being sent; and what touches the disk or the terminal is done by the first rank, the others following what it
found. A single process comes through every function here without a call to `torch.distributed`.

The gradients of an update, and its losses with them, are one flat buffer in one all-reduce after the backward
pass. DistributedDataParallel would begin sooner, but it wants one forward pass through its wrapper for one
backward pass: here the discriminator sees real and fake images apart, the penalty differentiates it twice and
the generator's update goes through it frozen. The networks are small: a few MB against a whole step.
"""

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from gan_lab import launch
from gan_lab.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # others wait while the first prepares a dataset; a rank that died is noticed

_meetings = itertools.count()
_here = launch.Place()
_store: Any = None  # of the group, for what must work when a rank is gone


class Lost(RuntimeError):
    """Another rank failed, or is gone; it says why itself."""


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Inside the block this process is one of those that a launcher started, if it did start several.

    Raises UserError where they cannot meet, Lost where one is gone before this one is done with it.
    """
    global _here, _store
    place = launch.place()
    if place.count == 1:
        yield
        return
    import torch.distributed as dist

    try:
        store, _, _ = next(dist.rendezvous("env://", place.rank, place.count, timeout=timedelta(minutes=5)))
        _store = dist.PrefixStore(f"gan-lab-{next(_meetings)}", store)  # not to meet an earlier group
        on_gpus = device != "cpu" and torch.cuda.is_available()
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        dist.init_process_group(
            backend, store=_store, rank=place.rank, world_size=place.count, timeout=PATIENCE
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the {place.count} ranks of WORLD_SIZE cannot meet ({reason}): start them with torchrun, or "
            "unset WORLD_SIZE"
        ) from error
    _here = place
    try:
        yield
    finally:
        _here = launch.Place()
    dist.destroy_process_group()  # not after an error: it would wait for the others


@contextlib.contextmanager
def _talking() -> Iterator[Any]:
    """`torch.distributed`, whose errors inside the block mean that another rank did not answer."""
    import torch.distributed as dist

    try:
        yield dist
    except RuntimeError as error:
        raise Lost(
            "another rank failed or is gone; the same command goes on from the last checkpoint"
        ) from error


def count() -> int:
    """How many ranks there are."""
    return _here.count


def local_rank() -> int:
    """This process's number among those of its host."""
    return _here.local


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return _here.rank == 0


def share(whole: Tensor) -> Tensor:
    """This rank's rows `[B / count, ...]` of what all have drawn alike, `[B, ...]`, B a multiple of count."""
    if _here.count == 1:
        return whole
    return whole.unflatten(0, (_here.count, -1))[_here.rank]


def average(values: dict[str, Tensor], network: nn.Module | None = None) -> dict[str, Tensor]:
    """Each scalar's mean over the ranks, and likewise, in place, the gradients of `network`.

    Where a rank's scalars are means over its share of a batch, and the gradients those of such a mean, the
    results are the whole batch's.
    """
    if _here.count == 1:
        return values
    parameters = network.parameters() if network else ()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    scalars = torch.stack([value.detach().float() for value in values.values()])
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), scalars])
    with _talking() as dist:
        dist.all_reduce(flat)
    flat /= _here.count
    *pieces, scalars = flat.split([gradient.numel() for gradient in gradients] + [len(values)])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view(gradient.shape))
    return dict(zip(values, scalars, strict=True))


class _Mean(torch.autograd.Function):
    """The mean over the ranks. Each rank's loss depends on it: so its gradient is the mean of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        with _talking() as dist:
            dist.all_reduce(tensor)
        return tensor.div_(_here.count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Mean.apply(gradients[0])


def mean(tensor: Tensor) -> Tensor:
    """The mean over the ranks of tensors of one shape, differentiable."""
    return tensor if _here.count == 1 else _Mean.apply(tensor)


def gather(rows: Tensor) -> Tensor:
    """The ranks' rows `[B / count, ...]` as one batch `[B, ...]`, in the ranks' order."""
    if _here.count == 1:
        return rows
    pieces = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(_here.count)]
    with _talking() as dist:
        dist.all_gather(pieces, rows.contiguous())
    return torch.cat(pieces)


def in_shares(
    make: Callable[[int, int], tuple[Tensor, ...]], start: int, stop: int, size: int
) -> tuple[Tensor, ...]:
    """`make(start, stop)`, whose rows have these numbers, each rank making `size` of them or what is left.

    `stop - start` is at most `size * count`. All call `make` once, for one row in vain if none is left.
    """
    if _here.count == 1:
        return make(start, stop)
    first = min(start + _here.rank * size, stop - 1)
    parts = make(first, max(min(first + size, stop), first + 1))
    whole = []
    for part in parts:
        padded = part.new_zeros(size, *part.shape[1:])  # all send as many rows
        padded[: len(part)] = part
        whole.append(gather(padded)[: stop - start])
    return tuple(whole)


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in the ranks' order."""
    if _here.count == 1:
        return [value]
    values: list[Any] = [None] * _here.count
    with _talking() as dist:
        dist.all_gather_object(values, value)
    return values


def largest(number: int) -> int:
    """The largest of the ranks' numbers; the host waits for the other hosts, never for a device."""
    if _here.count == 1:
        return number
    tensor = torch.tensor(number)
    with _talking() as dist:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns, or raises, on the first rank, for all; the others wait and do not call it."""
    if _here.count == 1:
        return make()
    made: list[Any] = [None, None]
    if is_first():
        try:
            made[0] = make()
        except Exception as error:
            made[1] = error
    message = [None, _sendable(made[1])] if made[1] else made
    with _talking() as dist:
        dist.broadcast_object_list(message)
    value, failure = made if is_first() else message
    if failure:
        raise failure
    return cast(T, value)


def in_turn(make: Callable[[], T]) -> T:
    """`make()` on the first rank, then on the others, who find on the disk what it left there.

    What one raises, all raise.
    """
    if _here.count == 1:
        return make()
    made: Any = None
    for is_my_turn in (is_first(), not is_first()):
        failure = None
        if is_my_turn:
            try:
                made = make()
            except Exception as error:
                failure = error
        failures = [found for found in gather_objects(_sendable(failure)) if found]
        if failures:
            raise failure or failures[0]
    return made


def _sendable(error: Exception | None) -> Exception | None:
    """An error as another rank can have it: those for a person whole, a defect without what is in it."""
    if isinstance(error, (UserError, OSError)):
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return Lost(f"another rank failed ({type(error).__name__})") if error else None


def speaks() -> bool:
    """Whether this rank is the first to ask: where all fail of the same defect, one shows it."""
    if _store is None:
        return True
    try:
        return _store.add("failures", 1) == 1
    except RuntimeError:  # the store went with its rank
        return True
