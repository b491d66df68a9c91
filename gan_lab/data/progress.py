"""Progress of a long preparation: a bar on a terminal, plain lines where the output is not one."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS = 10  # between plain lines


class Progress:
    """Counts up to `total` (None: unknown) from `start`, on stderr."""

    def __init__(self, label: str, total: int | None, unit: str = "images", start: int = 0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._begin = self._last = time.monotonic()
        self._start = self._count = start
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=label, total=total, initial=start, unit=f" {unit}", unit_scale=True, dynamic_ncols=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._print()

    def update(self, count: int) -> None:
        self._count += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last >= SECONDS:
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        speed = (self._count - self._start) / max(self._last - self._begin, 1e-9)
        of = f" of {self._total:,}" if self._total else ""
        print(
            f"{self._label}: {self._count:,}{of} {self._unit}, {speed:,.0f} a second",
            file=sys.stderr,
            flush=True,
        )
