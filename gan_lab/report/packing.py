"""What the page is told, in few bytes: JSON, then numbers of two bytes each, then images; gzipped."""

import base64
import gzip
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gan_lab.report.downsampling import Series

STEPS = 65534  # between the least and the greatest number of a series


class Pack:
    """Gathers series and images, whose descriptions go into the JSON; the reader is assets/data.js."""

    def __init__(self) -> None:
        self._iterations: dict[bytes, int] = {}
        self._numbers: list[NDArray[np.uint16]] = []
        self._images: list[bytes] = []
        self._image_bytes = 0

    def series(self, series: Series) -> list[float]:
        """`[place of its iterations, points, 1 if least, mean and most are the same, scale, least, step]`.

        A number is `scale · sinh(least + step · code)`: as good as a logarithm over many decades, and good
        for both signs.
        """
        raw = series.iteration.astype("<i8").tobytes()
        place = self._iterations.setdefault(raw, len(self._iterations))
        parts = [series.mean] if series.whole else [series.least, series.mean, series.most]
        numbers = np.concatenate(parts)
        size = np.abs(numbers)
        scale = max(float(size[size > 0].min()), float(size.max()) * 1e-9) if size.any() else 1.0
        bent = np.arcsinh(numbers / scale)
        least = float(bent.min())
        step = (float(bent.max()) - least) / STEPS
        codes = np.rint((bent - least) / step) if step else np.zeros_like(bent)
        self._numbers.append(codes.astype(np.uint16))
        return [
            place,
            len(series.mean),
            int(series.whole),
            *(float(f"{x:.9g}") for x in (scale, least, step)),
        ]

    def image(self, content: bytes) -> list[int]:
        """`[start, length]` among the images."""
        self._images.append(content)
        self._image_bytes += len(content)
        return [self._image_bytes - len(content), len(content)]

    def finish(self, facts: dict[str, Any]) -> str:
        """Everything as base64 of gzip: the JSON's length (4 bytes) and the JSON, numbers, images.

        Of the numbers come first all low bytes, then all high ones, which compress better separately.
        """
        numbers = np.concatenate(self._numbers) if self._numbers else np.empty(0, np.uint16)
        iterations = [np.frombuffer(raw, "<i8").tolist() for raw in self._iterations]
        text = json.dumps({**facts, "iterations": iterations, "numbers": len(numbers)}, separators=(",", ":"))
        head = text.encode()
        planes = (numbers & 255).astype(np.uint8).tobytes() + (numbers >> 8).astype(np.uint8).tobytes()
        return packed(b"".join([len(head).to_bytes(4, "little"), head, planes, *self._images]))


def packed(content: bytes) -> str:
    """base64 of gzip, the same for the same content."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
