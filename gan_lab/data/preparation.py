"""Raw images in, a prepared array out: on all cores, in a stream, whole or not at all."""

import contextlib
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gan_lab.data.array import ImageArray, open_array, write_chunks
from gan_lab.data.exclusive import exclusively
from gan_lab.data.progress import Progress
from gan_lab.data.raw import expanded
from gan_lab.data.recipe import Decoded, Recipe
from gan_lab.data.workers import in_order
from gan_lab.errors import UserError
from gan_lab.files import write_json

FORMAT = 1  # part of every array's name: raise it with anything here that changes the pixels
IMAGES_PER_CHUNK = 256
UNVERIFIED = "unverified"  # how the key of an origin begins that nobody published


class Source(Protocol):
    """Raw images in a fixed order, cut into chunks; which chunks depends on the raw data and nothing else."""

    @property
    def total(self) -> int | None:
        """How many images, where that is known without reading them."""

    def chunks(self) -> Iterator[Any]:
        """The chunks, each small enough to be sent to another process."""

    def decode(self, chunk: Any) -> Decoded:
        """The pixels of a chunk; called in worker processes."""


class Origin(Protocol):
    """Where raw images lie; all of this raises UserError where they do not."""

    @property
    def images(self) -> int | None:
        """How many images there must be; None: any number."""

    def key(self) -> str | None:
        """What tells this origin's content from another's; None: an unverified one that is not there."""

    def locate(self) -> Path:
        """The raw file or folder, downloaded if need be."""

    def check(self, raw: Path) -> None:
        """Verify the raw file's content."""

    def remember(self) -> None:
        """Keep what makes the next `key` cheap."""


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
    a share `max_damaged` of the images may be unreadable: they are left out, and named in a report next to
    the array. Raises UserError where the raw data or the disk does not allow it; then nothing is left behind.
    """
    root = expanded(root)
    description = {"name": name, "source": origin.key(), **recipe.description(), "format": FORMAT}
    if description["source"] is None:
        if only := _only_unverified(root, description):
            return open_array(only)
        origin.locate()
        description["source"] = origin.key()
    short_hash = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]
    path = root / f"{name}-{recipe.image_size}-{short_hash}.npy"
    if not _is_made(path):
        with exclusively(path):
            if not _is_made(path):  # by a process that was waited for
                raw = origin.locate()
                origin.check(raw)
                _make(path, open_source(raw, recipe), recipe, raw, origin.images, max_damaged, description)
    origin.remember()
    return open_array(path)


def _is_made(path: Path) -> bool:
    return path.exists() and path.with_suffix(".json").exists()


def _only_unverified(root: Path, description: dict[str, Any]) -> Path | None:
    """The array made like this from an unverified origin, whatever it was; raises UserError for several."""
    found = []
    for path in root.glob(f"{description['name']}-{description['image_size']}-*.npy"):
        with contextlib.suppress(OSError, ValueError):
            metadata = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            alike = {**description, "source": metadata.get("source")}.items() <= metadata.items()
            if alike and str(metadata["source"]).startswith(UNVERIFIED):
                found.append(path)
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise UserError(
            f"{root} has {len(found)} unverified arrays of {description['name']} ({names}): say with "
            "dataset.raw which archive is meant"
        )
    return found[0] if found else None


def _make(
    path: Path,
    source: Source,
    recipe: Recipe,
    raw: Path,
    expected: int | None,
    max_damaged: float,
    description: dict[str, Any],
) -> None:
    """Decode all of `source` into the array `path`, and name what is damaged in a report next to it."""
    shape = (3, recipe.image_size, recipe.image_size)
    total = source.total if source.total is not None else expected
    if total is not None:
        _refuse_if_too_large(path, total * math.prod(shape))
    print(f"preparing {path} from {raw}", file=sys.stderr)
    count = 0
    damaged: list[tuple[str, str]] = []

    def chunks() -> Generator[np.ndarray, None, None]:
        nonlocal count
        with (
            contextlib.closing(in_order(source.decode, source.chunks())) as decoded,
            Progress(path.stem, total) as progress,
        ):
            for chunk in decoded:
                yield chunk.images
                count += len(chunk.images) + len(chunk.damaged)
                damaged.extend(chunk.damaged)
                progress.update(len(chunk.images) + len(chunk.damaged))
                if total is not None:
                    refuse_damage(damaged, raw, total, max_damaged)

    def metadata() -> dict[str, Any]:
        if expected is not None and count != expected:
            raise UserError(
                f"{raw} holds {count} images, not {expected}: get the whole of it, or take it as it is with "
                "dataset.verify=false"
            )
        if not count:
            raise UserError(f"{raw} holds no images of the dataset: give the right archive or folder")
        refuse_damage(damaged, raw, count, max_damaged)
        report = path.with_suffix(".damaged.json")
        if damaged:
            write_json(report, dict(damaged))
        else:
            report.unlink(missing_ok=True)
        return {**description, "damaged": len(damaged)}

    try:
        with contextlib.closing(chunks()) as images:
            write_chunks(path, shape, images, metadata)
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that decodes images for {path} was killed, for want of memory perhaps: start again "
            "with more memory or fewer cores"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free some space, or set paths.data to another disk"
        ) from error


def _refuse_if_too_large(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"{path} needs {size / 1e9:.3g} GB more and its disk has {free / 1e9:.3g} GB free: free some, or "
            "set paths.data to a larger disk"
        )


def refuse_damage(damaged: list[tuple[str, str]], raw: Path, total: int, max_damaged: float) -> None:
    """Raise UserError where more than the share `max_damaged` of `total` images is damaged."""
    if len(damaged) > max_damaged * total:
        name, reason = damaged[0]
        raise UserError(
            f"{raw} has {len(damaged)} damaged images, more than the share dataset.max_damaged="
            f"{max_damaged:g} of {total} (the first: {name}, {reason}): get it again, or allow a larger share"
        )
