"""Progress of a long preparation: a bar on a terminal, plain lines where the output is not one."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS = 10  # between plain lines


class Progress:
    """Counts up to `total` (None: unknown) on stderr; what takes no second needs no report."""

    def __init__(self, label: str, total: int | None, unit: str = "images") -> None:
        self._label, self._total, self._unit = label, total, unit
        self._begin = self._last = time.monotonic()
        self._count = 0
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=label, total=total, unit=f" {unit}", unit_scale=True, dynamic_ncols=True, delay=1
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and time.monotonic() - self._begin > 1:
            self._print()

    def update(self, count: int) -> None:
        self._count += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last >= SECONDS:
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        speed = self._count / (self._last - self._begin)
        of = f" of {self._total:,}" if self._total else ""
        print(
            f"{self._label}: {self._count:,}{of} {self._unit}, {speed:,.0f} a second",
            file=sys.stderr,
            flush=True,
        )
