"""From an image in any format to the pixels that are trained on."""

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gan_lab.errors import UserError

T = TypeVar("T")
X = TypeVar("X")

# Pillow would also try formats that run other programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# Pillow widens each of these filters by the scale where it shrinks an image: they are antialiased.
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
ALIASED = "bilinear_aliased"  # see `bilinear_aliased`


class Decoded(NamedTuple):
    """Some images `[n, 3, S, S]` uint8, and the (name, reason) of each that could not be read."""

    images: np.ndarray
    damaged: list[tuple[str, str]]


@dataclass(frozen=True)
class Recipe:
    """Cut a centred square out of an image, resize it to `image_size`.

    The square has `crop` pixels a side, or None: the image's short side. `source_size`: (width, height) that
    every image must have, or None. `resample`: the filter, one of FILTERS or ALIASED.
    """

    image_size: int
    crop: int | None = None
    source_size: tuple[int, int] | None = None
    resample: str = "bicubic"

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise ValueError(f"image_size={self.image_size} is not a whole number of pixels")
        if self.resample not in (*FILTERS, ALIASED):
            raise ValueError(f"resample={self.resample} is none of {', '.join((*FILTERS, ALIASED))}")

    def description(self) -> dict[str, Any]:
        """Everything that decides the pixels, for the array's metadata and name."""
        antialiased = f"Pillow {self.resample}, antialiased"
        return {
            "image_size": self.image_size,
            "crop": f"centre {self.crop}" if self.crop else "centre, short side",
            "resize": "bilinear, not antialiased" if self.resample == ALIASED else antialiased,
            "colour": "RGB, EXIF orientation applied, transparency over white",
        }

    def decode(self, data: bytes) -> np.ndarray:
        """The pixels `[3, S, S]` of an encoded image; raises what Pillow raises where it is damaged."""
        image = read_rgb(data)
        if self.source_size and image.size != self.source_size:
            width, height = self.source_size
            raise ValueError(f"{image.size[0]}×{image.size[1]} pixels, not {width}×{height}")
        return self.resize(image)

    def resize(self, image: Image.Image) -> np.ndarray:
        """The pixels `[3, S, S]` of an RGB image."""
        width, height = image.size
        side = self.crop or min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        if left < 0 or top < 0:
            raise ValueError(f"{width}×{height} pixels hold no square of {side}")
        square = image.crop((left, top, left + side, top + side))
        if self.resample == ALIASED:
            resized = bilinear_aliased(np.asarray(square), self.image_size)
        else:
            resized = np.asarray(square.resize((self.image_size, self.image_size), FILTERS[self.resample]))
        return resized.transpose(2, 0, 1)

    def decode_all(self, images: Iterable[tuple[str, Callable[[], bytes]]]) -> Decoded:
        """Decode (name, function that reads it) in order; an image that fails is named with the reason."""
        pixels, damaged = try_each(images, lambda read: self.decode(read()))
        return Decoded(np.stack(pixels) if pixels else self.none(), damaged)

    def none(self) -> np.ndarray:
        """No images, `[0, 3, S, S]`."""
        return np.empty((0, 3, self.image_size, self.image_size), np.uint8)


def bilinear_aliased(square: np.ndarray, size: int) -> np.ndarray:
    """Pixels `[S, S, C]` uint8 to `[size, size, C]`, each a mean of the four nearest ones and of no others.

    Centre i of the result lies at (i + ½)·S/size − ½ of the source; beyond its outermost centres the edge is
    repeated. Means are exact, and halves are rounded up. This is what OpenCV and TensorFlow 2 call linear or
    bilinear, but for OpenCV's weights of 11 bits, by which a pixel may differ by one level. Shrinking by more
    than 2 leaves pixels out.
    """
    side, unit = len(square), 2 * size  # positions are whole numbers of 1/unit of a source's pixel
    position = ((2 * np.arange(size) + 1) * side - size).clip(0, unit * (side - 1))
    near, share = np.divmod(position, unit)
    far = (near + 1).clip(max=side - 1)
    terms = itertools.product([(near, unit - share), (far, share)], repeat=2)
    sums = sum(np.multiply.outer(a, b)[:, :, None] * square[np.ix_(y, x)] for (y, a), (x, b) in terms)
    return ((sums + unit**2 // 2) // unit**2).astype(np.uint8)


def try_each(items: Iterable[tuple[str, X]], work: Callable[[X], T]) -> tuple[list[T], list[tuple[str, str]]]:
    """`work` of each (name, item) in order, and the (name, reason) of each image at which it fails."""
    results, damaged = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about oddities of files that it reads all the same
        for name, item in items:
            try:
                results.append(work(item))
            except (UserError, MemoryError):
                raise
            except Exception as error:  # a damaged file can make a decoder raise anything
                damaged.append((printable(name), _reason(error)))
    return results, damaged


def printable(name: str) -> str:
    """A file's name as text, which it need not be: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _reason(error: Exception) -> str:
    """Why an image cannot be read, for people."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is empty, or no image in the form of {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which is said by its name
    # Pillow names the object that it reads from.
    said = " ".join(re.sub(r"<\S+ object at 0x\w+>", "the file", str(error)).split())
    known = isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError) and said
    return said if known else f"its decoder fails with {type(error).__name__} {said}".rstrip()


def read_rgb(data: bytes) -> Image.Image:
    """An encoded image as it is seen, in RGB; raises what Pillow raises where it is damaged.

    EXIF orientation is applied, transparency laid over white; of an animation this is the first frame.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB; raises ValueError for modes whose black and white are not defined."""
    # 16-bit grey, which Pillow would clip; a PGM's has another mode, scaled to the same range.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no fixed range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
