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
        self._wishes = 0

    def wish(self) -> int:
        """Note a signal: which wish to stop it is, the first being 1; 0 where it repeats the first one."""
        now = time.monotonic()
        if self._first is not None and now - self._first < AGAIN_S:
            return 0
        self._first = now if self._first is None else self._first
        self._wishes += 1
        return self._wishes
