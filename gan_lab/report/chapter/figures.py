"""A chapter's figures, by matplotlib, and its picture of samples."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, geometric_mean

from PIL import Image

from gan_lab.errors import UserError
from gan_lab.files import replacing
from gan_lab.report.chapter.study import Figure
from gan_lab.report.grids import PADDING, available, corner, side_of
from gan_lab.report.runs import Run

# Okabe and Ito's, which read the same with and without a colour deficiency.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"
TILES, COLUMNS, GAP = 4, 4, 12  # images of a grid in each direction, grids in a row, pixels between them


def style(place: int) -> tuple[str, str]:
    """Colour and marker of a setting, another pair for each of 64."""
    turn = place // len(COLOURS)
    return COLOURS[place % len(COLOURS)], MARKERS[(place + turn) % len(MARKERS)]


def draw(figure: Figure, folder: Path) -> None:
    """Write the figure into `folder`; raises UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure as Canvas
        from matplotlib.ticker import LogFormatterSciNotation
    except ImportError as error:
        raise UserError(
            f"the figures need matplotlib ({error}): pip install -e '.[study]' in gan-lab's folder"
        ) from error

    class Plain(LogFormatterSciNotation):
        """300 in place of 3 × 10², at the ticks that it would label."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    is_by_setting = figure.kind in ("settings", "grid")
    width = max(6.0, 1.1 * len(figure.points)) if is_by_setting else 8.5
    canvas = Canvas(figsize=(min(width, 16), 4), layout="constrained")
    panel = canvas.subplots()
    for place, (label, points) in enumerate(figure.points.items()):
        colour, marker = style(place)
        ys = [y for _, y, _ in points]
        if is_by_setting:
            average = geometric_mean(ys) if figure.kind == "grid" and min(ys) > 0 else fmean(ys)
            panel.scatter([place] * len(ys), ys, s=18, alpha=0.6, color=colour)
            panel.hlines(average, place - 0.3, place + 0.3, color=colour)
            continue
        xs = [x for x, _, _ in points]
        if figure.kind == "lines":
            errors = [error or 0.0 for _, _, error in points]
            panel.errorbar(
                xs,
                ys,
                errors,
                color=colour,
                marker=marker,
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label=label,
            )
        else:
            panel.scatter(xs, ys, s=18, alpha=0.7, color=colour, marker=marker, label=label)
    if is_by_setting:
        panel.set_xticks(range(len(figure.points)), list(figure.points), rotation=30, ha="right", fontsize=8)
    if all(y > 0 for points in figure.points.values() for _, y, _ in points):
        panel.set_yscale("log")
    if figure.log_x:
        sizes = [x for points in figure.points.values() for x, *_ in points]
        least = min((x for x in sizes if x > 0), default=1.0)
        if all(sizes):
            panel.set_xscale("log")
        else:  # zeros, which a logarithmic axis has no place for, stand left of all else
            panel.set_xscale("symlog", linthresh=least, linscale=0.5)
            panel.set_xlim(left=-least / 5)
    for axis in (panel.xaxis, panel.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(Plain())
            axis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))
    panel.set_xlabel(figure.x)
    panel.set_ylabel(figure.y)
    panel.grid(alpha=0.25, linewidth=0.5, which="both")
    if not is_by_setting and any(figure.points):
        canvas.legend(frameon=False, fontsize=8, loc="outside right upper")  # however many there are
    with replacing(folder / figure.name) as temporary:
        canvas.savefig(temporary, dpi=130, format="png")


def draw_samples(samples: Sequence[tuple[str, Run]], path: Path) -> None:
    """The first images of each run's last grid, in rows; a grid that cannot be read stays white."""
    tiles = [_corner(run) for _, run in samples]
    side = max(tile.width for tile in tiles)
    rows = -(-len(tiles) // COLUMNS)
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, ((place % COLUMNS) * (side + GAP), (place // COLUMNS) * (side + GAP)))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)


def _corner(run: Run) -> Image.Image:
    *_, last = available(run.directory.samples).values()
    size = side_of(run) or 32
    try:
        return corner(last, size, TILES)
    except Exception:  # a damaged image can fail in any way
        cut = TILES * (size + PADDING) + PADDING
        return Image.new("RGB", (cut, cut), "white")
