"""N ranks that compute what one process would: data parallelism over `torch.distributed`.

What is random is drawn whole by every rank, which takes its `local_shard` of the rows; gradients and losses
are averaged over the ranks, so that weights, optimizers and the norms' vectors move alike on all of them
without being sent; and what touches the disk or the terminal is done by rank zero, the others following what
it found. A single process calls nothing of `torch.distributed`.

The gradients of an update, and its losses with them, are one flat buffer in one all-reduce after the backward
pass. DistributedDataParallel would begin sooner, but it wants one forward pass through its wrapper for one
backward pass: here the penalty differentiates the discriminator twice and the generator's update goes through
it frozen. The networks are small: a few MB against a whole step.
"""

import contextlib
import functools
import itertools
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from gan_lab.distributed.env import is_rank_zero, rank, world_size
from gan_lab.errors import UserError, first_line

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT = timedelta(days=1)  # others wait while the first prepares a dataset; a rank that died is noticed
# Of collectives between GPUs, which all enter within an iteration, and where a rank that died is not noticed.
GPU_TIMEOUT = timedelta(minutes=20)

_meetings = itertools.count()
_store: Any = None  # of the group, for what must work when a rank is gone


class RankFailure(RuntimeError):
    """Another rank failed, or is gone; it says why itself."""


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Inside the block this process is one of those that a launcher started, if it did start several.

    Raises UserError where they cannot meet, RankFailure where one is gone before this one is done with it.
    """
    global _store
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    # Optimizers import it. Its functions keep as a default the group that there is then, whose threads would
    # live until the interpreter ends, and may abort the process there.
    import torch.distributed.nn

    try:
        store, _, _ = next(dist.rendezvous("env://", rank(), world_size(), timeout=timedelta(minutes=5)))
        _store = dist.PrefixStore(f"gan-lab-{next(_meetings)}", store)  # not to meet an earlier group
        on_gpus = device != "cpu" and torch.cuda.is_available()
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        dist.init_process_group(backend, store=_store, rank=rank(), world_size=world_size(), timeout=TIMEOUT)
        if on_gpus:
            dist.group.WORLD._get_backend(torch.device("cuda"))._set_default_timeout(GPU_TIMEOUT)  # type: ignore[union-attr]
    except (ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(
            f"the {world_size()} ranks of WORLD_SIZE cannot meet ({reason}): start them with torchrun, or "
            "unset WORLD_SIZE"
        ) from error
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others


@contextlib.contextmanager
def _talking() -> Iterator[Any]:
    """`torch.distributed`, whose errors inside the block mean that another rank did not answer."""
    import torch.distributed as dist

    try:
        yield dist
    except RuntimeError as error:
        raise RankFailure(
            "another rank failed or is gone; the same command resumes from the last checkpoint"
        ) from error


def local_shard(whole: Tensor) -> Tensor:
    """This rank's rows `[B / count, ...]` of what all have drawn alike, `[B, ...]`, B a multiple of count."""
    if world_size() == 1:
        return whole
    return whole.unflatten(0, (world_size(), -1))[rank()]


def average(values: dict[str, Tensor], network: nn.Module | None = None) -> dict[str, Tensor]:
    """Each scalar's mean over the ranks, and likewise, in place, the gradients of `network`.

    Where a rank's scalars are means over its share of a batch, and the gradients those of such a mean, the
    results are the whole batch's.
    """
    if world_size() == 1:
        return values
    parameters = network.parameters() if network else ()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    scalars = torch.stack([value.detach().float() for value in values.values()])
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), scalars])
    with _talking() as dist:
        dist.all_reduce(flat)
    flat /= world_size()
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
        return tensor.div_(world_size())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Mean.apply(gradients[0])


def mean(tensor: Tensor) -> Tensor:
    """The mean over the ranks of tensors of one shape, differentiable."""
    return tensor if world_size() == 1 else _Mean.apply(tensor)


def gather(rows: Tensor) -> Tensor:
    """The ranks' rows `[B / count, ...]` as one batch `[B, ...]`, in the ranks' order."""
    if world_size() == 1:
        return rows
    pieces = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
    with _talking() as dist:
        dist.all_gather(pieces, rows.contiguous())
    return torch.cat(pieces)


def in_shards(
    make: Callable[[int, int], tuple[Tensor, ...]], start: int, stop: int, size: int
) -> tuple[Tensor, ...]:
    """`make(start, stop)`, whose rows have these numbers, each rank making `size` of them or what is left.

    `stop - start` is at most `size * count`. All call `make` once, for one row in vain if none is left.
    """
    if world_size() == 1:
        return make(start, stop)
    first = min(start + rank() * size, stop - 1)
    parts = make(first, max(min(first + size, stop), first + 1))
    whole = []
    for part in parts:
        padded = part.new_zeros(size, *part.shape[1:])  # all send as many rows
        padded[: len(part)] = part
        whole.append(gather(padded)[: stop - start])
    return tuple(whole)


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in the ranks' order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _talking() as dist:
        dist.all_gather_object(values, value)
    return values


def largest(number: int) -> int:
    """The largest of the ranks' numbers; the host waits for the other hosts, never for a device."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number)
    with _talking() as dist:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def on_rank_zero(function: Callable[P, T]) -> Callable[P, T]:
    """Let rank zero alone call `function`; every rank returns, or raises, what it does there."""

    @functools.wraps(function)
    def wrapper(*arguments: P.args, **named: P.kwargs) -> T:
        if world_size() == 1:
            return function(*arguments, **named)
        result: list[Any] = [None, None]
        if is_rank_zero():
            try:
                result[0] = function(*arguments, **named)
            except Exception as error:
                result[1] = error
        message = [None, _sendable(result[1])] if result[1] else result
        with _talking() as dist:
            dist.broadcast_object_list(message)
        value, failure = result if is_rank_zero() else message
        if failure:
            raise failure
        return cast(T, value)

    return wrapper


def rank_zero_first(function: Callable[P, T]) -> Callable[P, T]:
    """Let rank zero call `function` before the others do, who find on the disk what it left there.

    What one rank raises, all raise.
    """

    @functools.wraps(function)
    def wrapper(*arguments: P.args, **named: P.kwargs) -> T:
        if world_size() == 1:
            return function(*arguments, **named)
        result: Any = None
        for is_my_turn in (is_rank_zero(), not is_rank_zero()):
            failure = None
            if is_my_turn:
                try:
                    result = function(*arguments, **named)
                except Exception as error:
                    failure = error
            failures = [found for found in gather_objects(_sendable(failure)) if found]
            if failures:
                raise failure or failures[0]
        return result

    return wrapper


def _sendable(error: Exception | None) -> Exception | None:
    """An error as another rank can have it: those for a person whole, a defect without what is in it."""
    if isinstance(error, (UserError, OSError)):
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return RankFailure(f"another rank failed ({type(error).__name__})") if error else None


def speaks() -> bool:
    """Whether this rank is the first to ask: where all fail of the same defect, one shows it."""
    if _store is None:
        return True
    try:
        return _store.add("failures", 1) == 1
    except RuntimeError:  # the store went with its rank
        return True
