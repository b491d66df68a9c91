"""A second wish to stop, told from the first one that arrives again."""

import time

AGAIN_S = 0.5  # a signal that comes sooner after the first one only repeats it


class StopSignals:
    """The signals to stop that a process is sent.

    One wish can arrive as several: `timeout`, for one, signals a process and then the process's group, and a
    terminal all that a sweep began, whose launching process then signals them too.
    """

    def __init__(self) -> None:
        self._first: float | None = None

    def repeats_first(self) -> bool:
        """Note a signal; whether it is the first one again."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            return False
        return now - self._first < AGAIN_S
