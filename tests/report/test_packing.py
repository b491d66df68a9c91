"""What is packed for the page comes out as it went in; the page's own reading is tested in the browser."""

import base64
import gzip
import json
import math

import numpy as np
import pytest

from gan_lab.report.downsampling import Series
from gan_lab.report.packing import Pack


def unpacked(text: str) -> tuple[dict, bytes]:
    content = gzip.decompress(base64.b64decode(text))
    end = 4 + int.from_bytes(content[:4], "little")
    return json.loads(content[4:end]), content[end:]


def numbers(facts: dict, rest: bytes, start: int, description: list[float]) -> list[float]:
    _, points, whole, scale, least, step = description
    count = facts["numbers"]
    codes = [rest[i] + 256 * rest[count + i] for i in range(start, start + int(points) * (1 if whole else 3))]
    return [scale * math.sinh(least + step * code) for code in codes]


@pytest.mark.parametrize(
    "values",
    [
        np.geomspace(1e-7, 1e6, 500),
        -np.geomspace(1e-3, 1e4, 500),
        np.concatenate([np.geomspace(1e-2, 1e3, 300), -np.geomspace(1e-2, 1e3, 300)]),
        1 + np.linspace(0, 1e-3, 100),
        np.full(7, 3.25),
        np.zeros(3),
        np.array([1e-300, 1e30]),
    ],
    ids=["decades", "negative", "both signs", "narrow", "constant", "zeros", "extremes"],
)
def test_numbers_of_any_size_keep_three_digits(values: np.ndarray) -> None:
    pack = Pack()
    described = pack.series(Series(np.arange(len(values)), values, values, values))
    facts, rest = unpacked(pack.finish({}))
    read = numbers(facts, rest, 0, described)
    np.testing.assert_allclose(read, values, rtol=1e-3, atol=1e-8 * np.abs(values).max())


def test_parts_do_not_get_mixed_up() -> None:
    pack = Pack()
    iterations = np.array([10, 20])
    least, mean, most = np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0])
    first = pack.series(Series(iterations, mean, mean, mean))
    second = pack.series(Series(iterations, least, mean, most))
    images = [pack.image(b"one"), pack.image(b"three")]
    facts, rest = unpacked(pack.finish({"runs": ["</script>"]}))
    assert facts["runs"] == ["</script>"]
    assert facts["iterations"] == [[10, 20]]  # shared
    assert (first[:3], second[:3]) == ([0, 2, 1], [0, 2, 0])
    assert numbers(facts, rest, 0, first) == pytest.approx([3, 4], rel=1e-4)
    assert numbers(facts, rest, 2, second) == pytest.approx([1, 2, 3, 4, 5, 6], rel=1e-4)
    behind = rest[2 * facts["numbers"] :]
    assert [behind[start : start + size] for start, size in images] == [b"one", b"three"]


def test_the_same_content_is_the_same_text() -> None:
    assert Pack().finish({"a": 1}) == Pack().finish({"a": 1})
