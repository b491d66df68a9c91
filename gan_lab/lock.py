"""One process to a run directory: a lock that its owner keeps warm and that dies with it."""

import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from gan_lab.errors import UserError

HEARTBEAT = 10  # seconds between signs of life
STALE = 60  # seconds without one after which an owner on another host counts as dead


class RunLock:
    """Holds `path` while entered; raises UserError, with the owner's host and pid, where another process does.

    On one host the kernel drops the lock with its owner, however that dies. Between hosts, whose kernels may not
    tell each other, the file's modification time is the owner's sign of life.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done = threading.Event()
        self._descriptor = -1

    def __enter__(self) -> "RunLock":
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = self._owner()
            os.close(self._descriptor)
            raise self._refusal(owner) from None
        owner = self._owner()
        silence = time.time() - os.fstat(self._descriptor).st_mtime
        if owner and owner.get("host") != socket.gethostname() and silence < STALE:
            os.close(self._descriptor)
            raise self._refusal(owner, f"; if that host is gone, try again in {STALE - silence:.0f} seconds")
        self._write({"host": socket.gethostname(), "pid": os.getpid()})
        threading.Thread(target=self._keep_warm, name="run-lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._write({})  # the file stays: removing it would race with the next owner
        os.close(self._descriptor)

    def _refusal(self, owner: dict[str, Any], hint: str = "") -> UserError:
        who = f"process {owner.get('pid', 'unknown')} on host {owner.get('host', 'unknown')}"
        return UserError(f"{self._path.parent} is being trained by {who}: wait for it or stop it{hint}")

    def _owner(self) -> dict[str, Any]:
        try:
            owner = json.loads(os.pread(self._descriptor, 4096, 0) or b"{}")
        except ValueError:
            return {}
        return owner if isinstance(owner, dict) else {}

    def _write(self, owner: dict[str, Any]) -> None:
        os.ftruncate(self._descriptor, 0)
        if owner:
            os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)

    def _keep_warm(self) -> None:
        while not self._done.wait(HEARTBEAT):
            try:
                os.utime(self._descriptor)
            except OSError:
                return
