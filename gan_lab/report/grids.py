"""Sample grids made small enough that many fit into one page."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

TILES = 6  # of the grid's ten in each direction: the more runs there are, the more a whole grid would shrink
PADDING = 2  # pixels around each image of a grid
MOST_PIXELS = 50_000_000  # of a grid that is opened at all
STEPS = 12  # iterations shown of a run, where there is room
LADDER = ((300, 75), (240, 70), (200, 65), (160, 60), (128, 55), (96, 50), (64, 45))  # side in pixels, quality


@dataclass(frozen=True)
class Grid:
    """The first images of a run's grid after `iteration` iterations, as WebP."""

    iteration: int
    webp: bytes


def available(folder: Path) -> dict[int, Path]:
    """A run's grids by iteration, ascending."""
    found = {int(path.stem): path for path in folder.glob("*.png") if path.stem.isascii() and path.stem.isdigit()}
    return dict(sorted(found.items()))


def shrink(folders: Sequence[tuple[Path, int]], budget: int) -> tuple[list[list[Grid]], list[str]]:
    """Grids of each run over its iterations, all together within `budget` bytes, and what could not be read.

    A run is given as its folder of samples and the side of one image in pixels.
    """
    steps = max(2, min(STEPS, 300 // max(1, len(folders))))
    chosen = [_spread(available(folder), steps) for folder, _ in folders]
    count = sum(map(len, chosen))
    side, quality = _fitting([(paths, size) for paths, (_, size) in zip(chosen, folders, strict=True)], budget, count)
    grids: list[list[Grid]] = []
    unread: list[str] = []
    spent = 0
    for paths, (_, size) in zip(chosen, folders, strict=True):
        grids.append([])
        for iteration, path in paths.items():
            try:
                webp = _encode(path, size, side, quality)
            except Exception as error:  # a damaged image can fail in any way
                unread.append(f"{path.name} cannot be read ({error})")
                continue
            if spent + len(webp) <= budget:
                spent += len(webp)
                grids[-1].append(Grid(iteration, webp))
    return grids, unread


def _spread(paths: dict[int, Path], steps: int) -> dict[int, Path]:
    """At most `steps` of them, the first and the last among them."""
    items = list(paths.items())
    if len(items) <= steps:
        return paths
    return dict(items[round(k * (len(items) - 1) / (steps - 1))] for k in range(steps))


def _fitting(chosen: Sequence[tuple[dict[int, Path], int]], budget: int, count: int) -> tuple[int, int]:
    """The largest side and quality at which `count` grids are likely to fit, judged by the last of a few runs."""
    probes = [(list(paths.values())[-1], size) for paths, size in chosen if paths][:6]
    for side, quality in LADDER:
        sizes = []
        for path, size in probes:
            try:
                sizes.append(len(_encode(path, size, side, quality)))
            except Exception:  # named when its turn comes
                continue
        if not sizes or 1.1 * count * sum(sizes) / len(sizes) <= budget:
            return side, quality
    return LADDER[-1]


def _encode(path: Path, size: int, side: int, quality: int) -> bytes:
    with Image.open(path, formats=("PNG",)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError("it is too large")
        pixels = image.convert("RGB")
    cut = TILES * (size + PADDING) + PADDING
    if size > 0 and pixels.width >= cut and pixels.height >= cut:
        pixels = pixels.crop((0, 0, cut, cut))
    pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    pixels.save(out, "WEBP", quality=quality, method=2)
    return out.getvalue()
