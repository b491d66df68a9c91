"""Sample grids made small enough that many fit into one page."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from PIL import Image

from gan_lab.report.runs import Run

TILES = 6  # of the grid's ten in each direction: the more runs there are, the more a whole grid would shrink
PADDING = 2  # pixels around each image of a grid
MOST_PIXELS = 50_000_000  # of a grid that is opened at all
STEPS, MOST_GRIDS = 12, 300  # iterations shown of a run, and grids of all runs
LADDER = (
    (300, 75),
    (240, 70),
    (200, 65),
    (160, 60),
    (128, 55),
    (96, 50),
    (64, 45),
)  # side in pixels, quality


@dataclass(frozen=True)
class Grid:
    """The first images of a run's grid after `iteration` iterations, as WebP."""

    iteration: int
    webp: bytes


def is_grid(path: PurePath) -> bool:
    """Whether a file is called as a grid is: by its iteration."""
    return path.suffix == ".png" and path.stem.isascii() and path.stem.isdigit()


def available(folder: Path) -> dict[int, Path]:
    """A run's grids by iteration, ascending."""
    return dict(sorted((int(path.stem), path) for path in folder.glob("*.png") if is_grid(path)))


def shrink(folders: Sequence[tuple[Path, int]], budget: int) -> tuple[list[list[Grid]], list[str]]:
    """Grids of each run over its iterations, all together within `budget` bytes, and what could not be read.

    A run is given as its folder of samples and the side of one image in pixels.
    """
    steps = max(2, min(STEPS, MOST_GRIDS // max(1, len(folders))))
    chosen = [(_spread(available(folder), steps), size) for folder, size in folders]
    for side, quality in LADDER:
        if _likely_bytes(chosen, side, quality) <= budget:
            grids, unread = _encode_all(chosen, side, quality)
            if sum(len(grid.webp) for some in grids for grid in some) <= budget:
                return grids, unread
    return [[] for _ in folders], [f"{sum(len(paths) for paths, _ in chosen)} grids have no room on the page"]


def _likely_bytes(chosen: Sequence[tuple[dict[int, Path], int]], side: int, quality: int) -> float:
    """What all grids may take, judged by the first and the last one of a few runs."""
    few = chosen[:: max(1, len(chosen) // 4)]
    probes = [(_spread(paths, 2), size) for paths, size in few]
    encoded, _ = _encode_all(probes, side, quality)
    sizes = [len(grid.webp) for some in encoded for grid in some]
    return sum(len(paths) for paths, _ in chosen) * sum(sizes) / len(sizes) if sizes else 0


def _encode_all(
    chosen: Sequence[tuple[dict[int, Path], int]], side: int, quality: int
) -> tuple[list[list[Grid]], list[str]]:
    grids: list[list[Grid]] = []
    unread: list[str] = []
    for paths, size in chosen:
        grids.append([])
        for iteration, path in paths.items():
            try:
                grids[-1].append(Grid(iteration, _encode(path, size, side, quality)))
            except Exception as error:  # a damaged image can fail in any way
                unread.append(f"{path.parent.parent.name}/samples/{path.name} cannot be read ({error})")
    return grids, unread


def _spread(paths: dict[int, Path], steps: int) -> dict[int, Path]:
    """At most `steps` of them, the first and the last among them."""
    items = list(paths.items())
    if len(items) <= steps:
        return paths
    return dict(items[round(k * (len(items) - 1) / (steps - 1))] for k in range(steps))


def corner(path: Path, size: int, tiles: int = TILES) -> Image.Image:
    """The first images of a grid, `tiles` in each direction, their side being `size` pixels.

    The whole grid if that is 0. A damaged image can make it fail in any way.
    """
    with Image.open(path, formats=("PNG",)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError("it is too large")
        cut = tiles * (size + PADDING) + PADDING if size > 0 else max(image.size)
        return image.convert("RGB").crop((0, 0, min(cut, image.width), min(cut, image.height)))


def side_of(run: Run) -> int:
    """The side in pixels of one image of its grids; 0 where its config does not say."""
    size = run.config.get("dataset.image_size")
    return size if isinstance(size, int) else 0


def _encode(path: Path, size: int, side: int, quality: int) -> bytes:
    pixels = corner(path, size)
    pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    pixels.save(out, "WEBP", quality=quality, method=2)
    return out.getvalue()
