"""One process to a run directory: a lock that its owner keeps warm and that dies with it."""

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from gan_lab.errors import UserError

HEARTBEAT = 10  # seconds between signs of life
STALE = 60  # seconds without one after which an owner on another host counts as dead


class RunLock:
    """Holds `path` while entered; raises UserError, with the owner's host and pid, if another process does.

    On one host the kernel drops the lock with its owner, however that dies. Between hosts, whose kernels may
    not tell each other, the file's modification time is the owner's sign of life, and so it is on a file
    system that has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._keep_warm, name="run-lock", daemon=True)
        self._descriptor = -1

    def __enter__(self) -> "RunLock":
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._acquire()
            except BaseException:
                os.close(self._descriptor)
                raise
        except OSError as error:
            raise UserError(
                f"the run directory {self._path.parent} cannot be locked ({error.strerror}): see to that, "
                "or set paths.outputs to another folder"
            ) from error
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            self._write({})  # the file stays: removing it would race with the next owner
        os.close(self._descriptor)

    def _acquire(self) -> None:
        kernel_knows = True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal(self._owner()) from None
        except OSError:  # a file system without locks
            kernel_knows = False
        owner = self._owner()
        is_local = owner.get("host") == socket.gethostname()
        if owner and not (is_local and kernel_knows) and (silence := self._silence()) < STALE:
            hint = f"; if that is gone, try again in {STALE - silence:.0f} seconds"
            raise self._refusal(owner, hint)
        if not os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
            raise self._refusal({})  # the directory was set aside by a fresh start in this very moment
        self._write({"host": socket.gethostname(), "pid": os.getpid()})

    def _silence(self) -> float:
        """Seconds since the owner's last sign of life, by the file system's clock and not by this host's."""
        with tempfile.TemporaryFile(dir=self._path.parent) as file:
            return os.fstat(file.fileno()).st_mtime - os.fstat(self._descriptor).st_mtime

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
            with contextlib.suppress(OSError):  # a file server that stumbles once must not end it
                os.utime(self._descriptor)
