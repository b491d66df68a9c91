"""What the local record holds, and what of it W&B has been given: the one is compared with the other."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gan_lab.files import write_text
from gan_lab.tracking.jsonl import LATER, read

MACHINE = ("speed/", "memory/")  # differs where iterations are repeated after a kill
MARK = " ✓"  # at the end of a ledger's line
CONSTANT = re.compile(r"weight_var_(lecun|xavier|kaiming)/")  # the targets of initialization: no curves


@dataclass(frozen=True)
class Event:
    """One row of metrics.jsonl (numbers that JSON cannot write are None), or one sample grid."""

    iteration: int
    values: Mapping[str, Any] = field(default_factory=dict)
    grid: Path | None = None

    @property
    def key(self) -> str:
        """The iteration and a digest: equal where the same is repeated, whatever the machine's speed."""
        content = {
            k: v for k, v in self.values.items() if not k.startswith(MACHINE) and not CONSTANT.match(k)
        }
        data = self.grid.read_bytes() if self.grid else json.dumps(content, sort_keys=True).encode()
        return f"{self.iteration} {hashlib.sha256(data).hexdigest()[:16]}"


def events(metrics: Path, samples: Path, until: int) -> Iterator[Event]:
    """The record in the order of training: each grid up to iteration `until` follows its iteration's row."""
    grids = [Event(int(path.stem), grid=path) for path in sorted(samples.glob("[0-9]*.png"))]
    grids = [event for event in grids if event.iteration <= until]
    for row in read(metrics):
        while LATER not in row and grids and grids[0].iteration < row["iteration"]:
            yield grids.pop(0)
        yield Event(row["iteration"], {k: v for k, v in row.items() if k not in ("iteration", LATER)})
    yield from grids


class Ledger:
    """A text file: the run's id in W&B, then a line for each of W&B's steps, the key of its event.

    It says what was given to W&B; how many steps have arrived, W&B says. The files of pictures go another way
    than the rows that name them: a line with a mark at its end says that they have arrived too. The file lies
    next to the record and not among W&B's own, which may be deleted at any time.
    """

    def __init__(self, path: Path, new_id: str, given_id: str = "") -> None:
        self._path, self._new_id = path, new_id
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        self.id = given_id or (lines[0] if lines else self._fresh_id())
        self._keys = [line.removesuffix(MARK) for line in lines[1:]] if lines[:1] == [self.id] else []
        self._marked = {line.removesuffix(MARK) for line in lines[1:] if line.endswith(MARK)}
        self._write()

    def _fresh_id(self) -> str:
        return f"{self._new_id}-{secrets.token_hex(3)}"

    def _write(self) -> None:
        keys = (key + MARK if key in self._marked else key for key in self._keys)
        write_text(self._path, "".join(f"{line}\n" for line in (self.id, *keys)))

    def agree(self, arrived: int, local: Iterable[str], iteration: int) -> set[str] | None:
        """The keys of what W&B has, of which `arrived` steps are there; None where it contradicts the record.

        `local` are the record's keys in their order. Beyond what the ledger knows, W&B is taken to have them
        in this order, as after `wandb sync`. What lies at `iteration` or after it may be missing in the
        record: it was lost in a crash and comes again.
        """
        keys = list(local)
        self._keys = self._keys[:arrived] + keys[len(self._keys) : arrived]
        has, known = set(self._keys), set(keys)
        surplus = [key for key in has - known if int(key.split()[0]) < iteration]
        if surplus or len(has) < arrived:
            return None
        self._write()
        return has

    def start_over(self) -> None:
        """A new id, of which W&B has nothing."""
        self.id, self._keys, self._marked = self._fresh_id(), [], set()
        self._write()

    def add(self, key: str) -> None:
        """W&B is given this event next."""
        self._keys.append(key)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{key}\n")

    def mark(self) -> None:
        """All that W&B was given has arrived, files too."""
        self._marked = set(self._keys)
        self._write()

    def unmarked(self) -> dict[str, int]:
        """The keys of the steps whose files may be missing in W&B, and these steps."""
        return {key: step for step, key in enumerate(self._keys) if key not in self._marked}
