"""What an iteration needs of the host, made by a thread while the one before computes."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`make(number)`, a function of the number and nothing else, for one number after the other.

    Inside `running` a thread makes the next while the caller uses the last; a number that is not the next is
    made at once. What the thread raises is raised where its number is asked for.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, number: int) -> T:
        is_next = self._next is not None and self._next[0] == number
        made = self._next[1].result() if self._next and is_next else self._make(number)
        if self._thread is not None:
            self._next = number + 1, self._thread.submit(self._make, number + 1)
        return made

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The thread lives as long as the block."""
        try:
            with ThreadPoolExecutor(1, "next-inputs") as self._thread:
                yield
        finally:
            self._thread = self._next = None
