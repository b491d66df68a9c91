"""Raw images in, a prepared array out: on all cores, in a stream, and resumable."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from gan_lab.data.array import ImageArray, open_array
from gan_lab.data.partial import Partial, exclusively
from gan_lab.data.progress import Progress
from gan_lab.data.raw import fingerprint
from gan_lab.data.recipe import Decoded, Recipe
from gan_lab.errors import UserError

FORMAT = 1  # part of every array's name: raise it with anything here that changes the pixels
IMAGES_PER_CHUNK = 256


class Source(Protocol):
    """Raw images in a fixed order, cut into chunks; which chunks depends on the raw data alone."""

    @property
    def total(self) -> int | None:
        """How many images, where that is known without reading them."""

    def chunks(self, first: int) -> Iterator[Any]:
        """The chunks from number `first` on, each small enough to be sent to another process."""

    def decode(self, chunk: Any) -> Decoded:
        """The pixels of a chunk; called in worker processes."""


class Origin(Protocol):
    """Where raw images lie; all of this raises UserError where they do not."""

    @property
    def images(self) -> int | None:
        """How many images there must be; None: any number."""

    def key(self) -> str:
        """What tells this origin's content from another's, for the array's name."""

    def locate(self) -> Path:
        """The raw file or folder, downloaded if need be."""

    def check(self, raw: Path) -> None:
        """Verify the raw file's content."""


def prepare(
    root: Path,
    name: str,
    recipe: Recipe,
    origin: Origin,
    open_source: Callable[[Path, Recipe], Source],
    max_damaged: float = 0.0,
) -> ImageArray:
    """The array of `origin`'s images by `recipe` under `root`, made on first use.

    Its file is named by a hash of all that decides its content, so arrays made differently never mix. Up to
    a share `max_damaged` of the images may be unreadable: they are left out, and named in a report beside the
    array. Raises UserError where the raw data or the disk does not allow it; then nothing is left behind.
    """
    description = {"name": name, "source": origin.key(), **recipe.description(), "format": FORMAT}
    short_hash = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]
    path = root / f"{name}-{recipe.image_size}-{short_hash}.npy"
    if path.exists():
        return open_array(path)
    try:
        with exclusively(path) as file:
            if file is not None:
                raw = origin.locate()
                identity = {"raw": fingerprint(raw), **description}
                partial = Partial(path, file, identity, (3, recipe.image_size, recipe.image_size))
                if not partial.resumed:
                    origin.check(raw)
                _fill(partial, open_source(raw, recipe), raw, origin.images, max_damaged)
                partial.finish(description)
    except BrokenProcessPool as error:  # outside of the block, which keeps what is done
        raise UserError(
            f"a process that decodes images for {path} was killed, for want of memory perhaps: start again "
            "with more memory or fewer cores, and it goes on where it stopped"
        ) from error
    return open_array(path)


def _fill(partial: Partial, source: Source, raw: Path, expected: int | None, max_damaged: float) -> None:
    """Decode all of `source` into `partial`."""
    total = source.total if source.total is not None else expected
    if total is not None:
        partial.refuse_if_too_large(total)
    done = partial.rows + len(partial.damaged)
    print(f"{'going on with' if done else 'preparing'} {partial.path} from {raw}", file=sys.stderr)
    with (
        contextlib.closing(_decoded(source, partial.chunks, total)) as decoded,
        Progress(partial.path.stem, total, start=done) as progress,
    ):
        for chunk in decoded:
            partial.append(chunk)
            progress.update(len(chunk.images) + len(chunk.damaged))
            if total is not None:
                _refuse_damage(partial, raw, total, max_damaged)
    count = partial.rows + len(partial.damaged)
    if expected is not None and count != expected:
        raise UserError(
            f"{raw} holds {count} images, not {expected}: get the whole of it, or take it as it is with "
            "dataset.verify=false"
        )
    if not count:
        raise UserError(f"{raw} holds no images of the dataset: give the right archive or folder")
    _refuse_damage(partial, raw, count, max_damaged)


def _refuse_damage(partial: Partial, raw: Path, total: int, max_damaged: float) -> None:
    damaged = len(partial.damaged)
    if damaged > max_damaged * total:
        name, reason = partial.damaged[0]
        raise UserError(
            f"{raw} has {damaged} damaged images, more than the share dataset.max_damaged={max_damaged:g} of "
            f"{total} (the first: {name}, {reason}): get it again, or allow a larger share"
        )


def _decoded(source: Source, first: int, total: int | None) -> Generator[Decoded, None, None]:
    """The chunks from number `first` on, decoded by a process for each core, in their order."""
    if total is not None and total <= IMAGES_PER_CHUNK:
        yield from map(source.decode, source.chunks(first))
        return
    workers = cores()
    pool = ProcessPoolExecutor(workers, initializer=_adopt, initargs=(source,))
    pending: deque[Future[Decoded]] = deque()
    try:
        for chunk in source.chunks(first):
            pending.append(pool.submit(_decode, chunk))
            if len(pending) > 2 * workers:  # enough to keep all busy, and no more in memory
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _adopt(source: Source) -> None:
    """Make this worker ready: it decodes chunks of `source`, and ends when its parent is gone."""
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


_source: Source  # a worker's


def _decode(chunk: Any) -> Decoded:
    return _source.decode(chunk)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
