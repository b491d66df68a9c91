"""From an image in any format to the pixels that are trained on."""

import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from gan_lab.errors import UserError

# Pillow would also try formats that run other programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# Pillow widens each of these filters by the scale where it shrinks an image: they are antialiased.
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}


class Decoded(NamedTuple):
    """Some images `[n, 3, S, S]` uint8, and the (name, reason) of each that could not be read."""

    images: np.ndarray
    damaged: list[tuple[str, str]]


@dataclass(frozen=True)
class Recipe:
    """Cut a centred square out of an image, resize it to `image_size`.

    The square has `crop` pixels a side, or None: the image's short side. `source_size`: (width, height) that
    every image must have, or None. `resample`: the filter, one of FILTERS.
    """

    image_size: int
    crop: int | None = None
    source_size: tuple[int, int] | None = None
    resample: str = "bicubic"

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise ValueError(f"image_size={self.image_size} is not a whole number of pixels")
        if self.resample not in FILTERS:
            raise ValueError(f"resample={self.resample} is none of {', '.join(FILTERS)}")

    def description(self) -> dict[str, Any]:
        """Everything that decides the pixels, for the array's metadata and name."""
        return {
            "image_size": self.image_size,
            "crop": f"centre {self.crop}" if self.crop else "centre, short side",
            "resize": f"Pillow {self.resample}, antialiased",
            "colour": "RGB, EXIF orientation applied, transparency over white",
        }

    def decode(self, data: bytes) -> np.ndarray:
        """The pixels `[3, S, S]` of an encoded image; raises what Pillow raises where it is damaged."""
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if self.source_size and image.size != self.source_size:
                raise ValueError(f"{image.size[0]}×{image.size[1]} pixels, not {self.source_size}")
            ImageOps.exif_transpose(image, in_place=True)
            return self.resize(to_rgb(image))

    def resize(self, image: Image.Image) -> np.ndarray:
        """The pixels `[3, S, S]` of an RGB image."""
        width, height = image.size
        side = self.crop or min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        if left < 0 or top < 0:
            raise ValueError(f"{width}×{height} pixels hold no square of {side}")
        square = image.crop((left, top, left + side, top + side))
        resized = square.resize((self.image_size, self.image_size), FILTERS[self.resample])
        return np.asarray(resized).transpose(2, 0, 1)

    def decode_all(self, images: Iterable[tuple[str, Callable[[], bytes]]]) -> Decoded:
        """Decode (name, function that reads it) in order; an image that fails is named with the reason."""
        pixels, damaged = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about oddities of files that it reads all the same
            for name, read in images:
                try:
                    pixels.append(self.decode(read()))
                except (UserError, MemoryError):
                    raise
                except Exception as error:  # a damaged file can make a decoder raise anything
                    damaged.append((name, " ".join(str(error).split()) or type(error).__name__))
        return Decoded(np.stack(pixels) if pixels else self.none(), damaged)

    def none(self) -> np.ndarray:
        """No images, `[0, 3, S, S]`."""
        return np.empty((0, 3, self.image_size, self.image_size), np.uint8)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB; raises ValueError for modes whose black and white are not defined."""
    if image.mode.startswith("I;16"):  # 16-bit grey, which Pillow would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no fixed range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
