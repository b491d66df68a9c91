"""Progress for a person: a bar on a terminal, plain lines where the output is not one."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from gan_lab.tracking.history import DISTANCES

SHOWN = {"loss/d": "D", "loss/g": "G"}


class Console:
    """Shows losses, the last FID and the time left; until metrics took some, without that of metrics."""

    def __init__(self, start: int, iterations: int, is_judged: bool = False) -> None:
        self._shown: dict[str, float] = {}
        self._begin, self._start, self._iterations = time.monotonic(), start, iterations
        self._left_out = ", without metrics" if is_judged else ""
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=iterations, initial=start, unit="it", dynamic_ncols=True, smoothing=0.05)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._shown |= {short: values[name] for name, short in SHOWN.items() if name in values}
        for name in values:
            if name.startswith(DISTANCES):  # and its protocol, as in metric/fid_digits
                kind, *protocol = name.removeprefix("metric/").split("_")
                self._shown[" ".join([kind.upper(), *protocol])] = values[name]
        text = "  ".join(f"{short} {value:.3f}" for short, value in self._shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(iteration - self._bar.n)
            return
        done = max(iteration - self._start, 1)  # a resumed run may begin with a record that was cut short
        left = (time.monotonic() - self._begin) / done * (self._iterations - iteration)
        if any(name.startswith("metric/") for name in values):
            self._left_out = ""  # from here on the time that has passed holds theirs
        time_left = f"{tqdm.format_interval(left)} left{self._left_out}"
        print(f"{iteration}/{self._iterations}  {text}  {time_left}", flush=True)

    def log_samples(self, iteration: int, grid: Path) -> None:
        """Pictures are not for the console."""

    def finish(self, state: str) -> None:
        if self._bar is not None:
            self._bar.close()
