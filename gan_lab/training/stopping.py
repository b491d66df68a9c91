"""Signals that ask a run to stop: the iteration is finished and a checkpoint written first."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from gan_lab.distributed import collectives
from gan_lab.signals import StopSignals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """While entered, a signal stops the program at once by KeyboardInterrupt, whichever of SIGNALS it is.

    Not so inside `deferred`: there the first one is remembered in `signal_name`, and only a second Ctrl-C
    stops at once. What only repeats the first one does nothing. `received` are the numbers of all, in their
    order.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.received: list[int] = []
        self._is_deferred = False
        self._signals = StopSignals()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # under nohup, a terminal that closes shall stop nothing
            self._before[number] = signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        return self

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """For work that asks `signal_name` itself, at points where it can stop."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def agreed(self) -> str | None:
        """The signal that this rank was sent, or another; all ranks ask at the same time."""
        number = collectives.largest(signal.Signals[self.signal_name] if self.signal_name else 0)
        return signal.Signals(number).name if number else None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if not self._signals.wish():
            return
        if not self._is_deferred or (self.signal_name and number == signal.SIGINT):
            self.signal_name = signal.Signals(number).name
            raise KeyboardInterrupt(f"stopped by {self.signal_name}")
        self.signal_name = self.signal_name or signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
