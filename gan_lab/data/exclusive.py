"""One process at a time makes an array."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gan_lab.errors import UserError


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Waits while another process makes the array `path`; removes what killed ones left of it.

    Raises UserError where nothing can be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _locked(lock)
    except OSError as error:
        raise UserError(
            f"{lock} cannot be written ({error.strerror}): set paths.data to another folder"
        ) from error
    with held:
        for litter in path.parent.glob(f".{path.stem}.*.tmp"):
            litter.unlink()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(lock: Path) -> IO[bytes]:
    """The open and locked file. A lock of this kind ends with its process and is not inherited by workers."""
    while True:
        file = lock.open("ab")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process, which holds {lock}", file=sys.stderr, flush=True)
            fcntl.lockf(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        file.close()  # its holder removed it: this is no longer the file of that name
