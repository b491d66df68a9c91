"""A disk that fails at one chosen operation, below everything that writes files through Python."""

import contextlib
import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FULL, BROKEN, SHORT, LOST = "ENOSPC", "EIO", "short write", "lost bytes"
KINDS = (FULL, BROKEN, SHORT, LOST)


class FaultyDisk:
    """Counts the operations that change files under `folder`, and lets number `fail_at` go wrong.

    - ENOSPC, EIO: a write puts down half and fails; anything else fails without effect.
    - short write: a write puts down half and says so, as POSIX allows.
    - lost bytes: a write puts down half and claims all.

    `operations` names them as they come: "write <file>", "sync", "rename", "delete".
    """

    def __init__(self, folder: Path, fail_at: int = -1, kind: str = BROKEN, persists: bool = False) -> None:
        self.folder = folder.resolve()
        self.fail_at, self.kind, self.persists = fail_at, kind, persists
        self.operations: list[str] = []

    def fails(self, operation: str) -> bool:
        """Note an operation; whether it is to go wrong."""
        self.operations.append(operation)
        number = len(self.operations) - 1
        return number == self.fail_at or (self.persists and 0 <= self.fail_at < number)

    def error(self) -> OSError:
        number = errno.ENOSPC if self.kind == FULL else errno.EIO
        return OSError(number, os.strerror(number))

    def holds(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(self.folder)

    @contextlib.contextmanager
    def mounted(self) -> Iterator["FaultyDisk"]:
        """Inside the block, files are on this disk."""
        originals = io.open, os.fsync, os.replace, os.unlink

        def failing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def operation(path: Any, *arguments: Any, **named: Any) -> Any:
                if (name == "sync" or self.holds(path)) and self.fails(name) and self.kind in (FULL, BROKEN):
                    raise self.error()
                return original(path, *arguments, **named)

            return operation

        def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if mode not in ("w", "wb") or not self.holds(file):
                return originals[0](file, mode, *arguments, **named)
            raw = _FaultyFile(self, Path(file))
            return (
                io.BufferedWriter(raw) if "b" in mode else io.TextIOWrapper(io.BufferedWriter(raw), "utf-8")
            )

        io.open, os.fsync = opened, failing("sync", originals[1])
        os.replace, os.unlink = failing("rename", originals[2]), failing("delete", originals[3])
        try:
            yield self
        finally:
            io.open, os.fsync, os.replace, os.unlink = originals


class _FaultyFile(io.FileIO):
    def __init__(self, disk: FaultyDisk, path: Path) -> None:
        super().__init__(path, "w")
        self._disk = disk
        # `replacing` names the temporary file of status.json ".status.json.<something>.tmp".
        self._label = "write " + re.sub(r"^\.(.+)\.[^.]+\.tmp$", r"\1", path.name)

    def write(self, content: Any) -> int:
        if not self._disk.fails(self._label):
            return super().write(content)
        written = super().write(bytes(content)[: len(content) // 2])
        if self._disk.kind in (FULL, BROKEN):
            raise self._disk.error()
        return written if self._disk.kind == SHORT else len(content)
