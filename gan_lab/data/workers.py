"""Work on all cores, its results in order."""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import torch

C = TypeVar("C")
R = TypeVar("R")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[C], R], chunks: Iterable[C]) -> Generator[R, None, None]:
    """`work(chunk)` of each chunk, by a process for each core; few chunks are held at a time.

    A single chunk is worked on here. Raises BrokenProcessPool where a process is killed.
    """
    chunks = iter(chunks)
    first = list(itertools.islice(chunks, 2))
    if len(first) < 2:
        yield from map(work, first)
        return
    pool = ProcessPoolExecutor(cores(), _context(), _adopt, (work,))
    pending: deque[Future[R]] = deque()
    try:
        for chunk in itertools.chain(first, chunks):
            pending.append(pool.submit(_work_on, chunk))
            if len(pending) > 2 * cores():  # enough to keep all busy, and no more in memory
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """How workers start, named: in joblib's processes the default is joblib's, without a parent to know."""
    method = "spawn"
    if sys.platform.startswith("linux"):
        # CUDA does not survive a fork, and its threads may hold locks at that moment.
        method = "forkserver" if torch.cuda.is_initialized() else "fork"
    if method != "fork" and multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # A new interpreter looks up its parent's default by name, and finds none of joblib's.
        multiprocessing.set_start_method(method, force=True)
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])
    return context


def _adopt(work: Callable[[Any], Any]) -> None:
    """Make this worker ready: it ends when its parent is gone."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


_work: Callable[[Any], Any]  # a worker's


def _work_on(chunk: Any) -> Any:
    return _work(chunk)
