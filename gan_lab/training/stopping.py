"""Signals that ask a run to stop: the iteration is finished and a checkpoint written first."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """While entered, a signal stops the program at once by KeyboardInterrupt, whichever of SIGNALS it is.

    Not so inside `deferred`: there the first one is remembered in `signal_name`, and only a second Ctrl-C
    stops at once.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._is_deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # under nohup, a terminal that closes shall stop nothing
            self._before[number] = signal.signal(number, self._handle)
        return self

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """For work that asks `signal_name` itself, at points where it can stop."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_deferred or (self.signal_name and number == signal.SIGINT):
            self.signal_name = signal.Signals(number).name
            raise KeyboardInterrupt(f"stopped by {self.signal_name}")
        self.signal_name = self.signal_name or signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
