"""What tells one set of files from another: the SHA-256 of each, remembered while a file stays untouched."""

import contextlib
import hashlib
import json
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gan_lab.data.progress import Progress
from gan_lab.data.workers import cores
from gan_lab.files import write_text

# A file changed this shortly before it was read may change again and keep its times: the clocks of file
# systems tick in milliseconds at best and in two seconds at worst.
SETTLED_NS = 2 * 10**9
FILES_PER_TASK = 64
UNREADABLE = "unreadable"  # in place of a checksum


class Contents:
    """The SHA-256 of files below one folder, by their paths relative to it.

    With `index_folder`, `remember` keeps them there, and the next `Contents` reads only files that are new or
    changed. The index is named by the folder's inode: a folder that moves on its disk keeps it.
    """

    def __init__(self, folder: Path, index_folder: Path | None = None) -> None:
        self._folder = folder
        self._index = index_folder / f".contents-{folder.stat().st_ino}" if index_folder else None
        self._known = _load(self._index) if self._index else {}  # name: "<stamp> <SHA-256>"
        self._current = self._known

    def of(self, names: Sequence[str]) -> list[str]:
        """The SHA-256 of each of these files; UNREADABLE where one cannot be read."""
        now = time.time_ns()
        stamps = {name: stamp for name in names if (stamp := _stamp(self._folder / name))}
        digests = {
            name: known[1]
            for name, stamp in stamps.items()
            if (known := self._known.get(name, "").rsplit(" ", 1))[0] == stamp
        }
        digests |= self._read([name for name in stamps if name not in digests], stamps)
        self._current = {
            name: f"{stamp} {digests[name]}"
            for name, stamp in stamps.items()
            if name in digests and _changed(stamp) < now - SETTLED_NS
        }
        return [digests.get(name, UNREADABLE) for name in names]

    def remember(self) -> None:
        """Keep what is known in the index; where nothing can be written, it is found anew next time."""
        if self._index is None or self._current == self._known:
            return
        text = json.dumps(self._current, indent=0)  # escapes names that are not UTF-8
        with contextlib.suppress(OSError):
            write_text(self._index, f"{_checksum(text)}\n{text}")

    def _read(self, names: Sequence[str], stamps: dict[str, str]) -> dict[str, str]:
        def read(start: int) -> dict[str, str]:
            found = {}
            for name in names[start : start + FILES_PER_TASK]:
                with contextlib.suppress(OSError), (self._folder / name).open("rb") as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
            return found

        digests: dict[str, str] = {}
        threads = ThreadPoolExecutor(cores())  # hashing frees the interpreter's lock
        try:
            size = sum(_size(stamps[name]) for name in names)
            with Progress(f"reading {self._folder}", size, "bytes") as progress:
                for found in threads.map(read, range(0, len(names), FILES_PER_TASK)):
                    digests |= found
                    progress.update(sum(_size(stamps[name]) for name in found))
        finally:
            threads.shutdown(cancel_futures=True)
        return digests


def _stamp(file: Path) -> str | None:
    """What changes whenever a file does: inode, size, mtime, ctime; None where it is no file."""
    try:
        facts = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait for ever
        return None
    return f"{facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"


def _size(stamp: str) -> int:
    return int(stamp.split()[1])


def _changed(stamp: str) -> int:
    return max(map(int, stamp.split()[2:]))


def _load(index: Path) -> dict[str, str]:
    """What an earlier process kept; nothing where the file is missing or not as it was written."""
    try:
        checksum, _, text = index.read_text(encoding="utf-8").partition("\n")
        known = json.loads(text) if checksum == _checksum(text) else {}
    except (OSError, ValueError):
        return {}
    return known


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def combined(digests: Sequence[str]) -> str:
    """One short hash of many checksums, in their order."""
    return _checksum("\n".join(digests))[:16]
