"""From any image to pixels: the crop, the antialiased resize, and every mode that users' files come in."""

import io
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from official_archives import pictures
from PIL import Image

from gan_lab.data.recipe import ALIASED, FILTERS, FORMATS, Recipe


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(pixels: np.ndarray) -> tuple[int, ...]:
    """The colour of an image that has only one."""
    colours = pixels.reshape(3, -1)
    assert (colours == colours[:, :1]).all()
    return tuple(int(value) for value in colours[:, 0])


@pytest.mark.parametrize(
    ("size", "target"), [((96, 96), 48), ((128, 128), 64), ((500, 333), 128), ((40, 60), 64)]
)
def test_resizing_is_antialiased_bicubic_as_torch_computes_it(size: tuple[int, int], target: int) -> None:
    image = pictures(1, size[1], size[0])[0]
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    square = torch.from_numpy(image[top : top + side, left : left + side]).permute(2, 0, 1)[None].double()
    # torch's antialiased filter is Pillow's, a = -0.5; its plain one is not.
    expected = (
        F.interpolate(square, (target, target), mode="bicubic", antialias=True)[0].clamp(0, 255).numpy()
    )
    ours = Recipe(target).decode(encoded(Image.fromarray(image))).astype(float)
    assert np.abs(ours - expected).max() <= 2  # Pillow rounds to whole pixels in between
    assert np.abs(ours - expected).mean() < 0.4


def test_shrinking_a_checkerboard_gives_grey() -> None:
    board = np.where(np.indices((96, 96)).sum(0) % 2, 255, 0).astype(np.uint8)
    image = Image.fromarray(board).convert("RGB")
    for resample in FILTERS:
        inner = Recipe(24, resample=resample).resize(image)[:, 2:-2, 2:-2].astype(float)
        assert np.abs(inner - 127.5).max() < 8  # without antialiasing it would be black or white


@pytest.mark.parametrize("side", [96, 128])
def test_at_half_the_size_box_and_aliased_bilinear_are_the_mean_of_two_by_two(side: int) -> None:
    image = pictures(1, side, side)[0]
    expected = image.reshape(side // 2, 2, side // 2, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    ours = Recipe(side // 2, resample="box").resize(Image.fromarray(image))
    assert np.abs(ours - expected).max() <= 1
    assert (ours - expected).mean() == pytest.approx(0.5, abs=0.02)  # as docs/data.md says
    once = Recipe(side // 2, resample="bilinear_aliased").resize(Image.fromarray(image))
    assert np.array_equal(once, np.floor(expected + 0.5))  # where Pillow rounds twice


SIZES = [(96, 48), (128, 64), (331, 128), (33, 17), (17, 33), (5, 12), (7, 7), (1, 3), (3, 1), (2, 9)]


@pytest.mark.parametrize(("side", "size"), SIZES)
def test_aliased_bilinear_is_its_formula(side: int, size: int) -> None:
    """Pixel by pixel, in exact fractions, the hats of the four nearest pixels; a half is rounded up."""
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    half = Fraction(1, 2)

    def shares(i: int) -> dict[int, Fraction]:
        position = min(max((i + half) * Fraction(side, size) - half, Fraction(0)), Fraction(side - 1))
        near = [math.floor(position), math.ceil(position)]
        return {one: 1 - abs(position - one) for one in near}

    ours = Recipe(size, resample="bilinear_aliased").resize(Image.fromarray(image))
    assert ours.dtype == np.uint8
    some = sorted({0, 1, size // 3, size // 2, size - 2, size - 1} & set(range(size)))
    for i, j, channel in itertools.product(some, some, range(3)):
        terms = itertools.product(shares(i).items(), shares(j).items())
        mean = sum((a * b * int(image[y, x, channel]) for (y, a), (x, b) in terms), Fraction(0))
        assert ours[channel, i, j] == math.floor(mean + half), (i, j)


@pytest.mark.parametrize(("side", "size"), SIZES)
def test_aliased_bilinear_is_torch_s_without_antialiasing(side: int, size: int) -> None:
    image = pictures(1, side, side)[0]
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = F.interpolate(planes, (size, size), mode="bilinear", align_corners=False, antialias=False)[0]
    ours = Recipe(size, resample="bilinear_aliased").resize(Image.fromarray(image))
    assert np.abs(ours - expected.numpy()).max() <= 0.5 + 1e-9


def test_aliased_bilinear_leaves_out_what_antialiasing_takes_in() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 0::4] = image[:, 3::4] = 255  # the outer two of each four columns
    resized = {resample: Recipe(16, resample=resample).resize(Image.fromarray(image)) for resample in FILTERS}
    assert all(pixels[:, :, 2:-2].min() > 100 for pixels in resized.values())
    assert Recipe(16, resample="bilinear_aliased").resize(Image.fromarray(image)).max() == 0


def test_every_way_of_resizing_is_another_description() -> None:
    ways = (*FILTERS, ALIASED)
    assert len({str(Recipe(32, resample=resample).description()) for resample in ways}) == len(ways)


def test_the_crop_is_the_centre() -> None:
    image = np.zeros((218, 178, 3), np.uint8)
    image[45:173, 25:153] = 200  # CelebA's centred square of 128
    data = encoded(Image.fromarray(image))
    assert flat(Recipe(64, crop=128).decode(data)) == (200, 200, 200)
    assert Recipe(64, crop=130).decode(data).min() < 200


def test_an_image_of_the_target_s_size_is_left_as_it_is() -> None:
    image = pictures(1, 32, 32)[0]
    for resample in (*FILTERS, ALIASED):
        ours = Recipe(32, resample=resample).decode(encoded(Image.fromarray(image)))
        assert np.array_equal(ours, image.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(pictures(1, 40, 40)[0])
    # The stored image is turned so that the viewer's turn, as the EXIF standard names it, makes it upright.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(
        Recipe(40).decode(encoded(stored, exif=exif)), np.asarray(upright).transpose(2, 0, 1)
    )


def _red(mode: str) -> Image.Image:
    return Image.new("RGB", (10, 10), (255, 0, 0)).convert(mode)


@pytest.mark.parametrize(
    ("make", "colour"),
    [
        (lambda: encoded(Image.new("L", (9, 9), 77)), (77, 77, 77)),
        (lambda: encoded(Image.new("1", (9, 9), 1)), (255, 255, 255)),
        (lambda: encoded(_red("P"), "GIF"), (255, 0, 0)),
        (lambda: encoded(_red("CMYK"), "TIFF"), (255, 0, 0)),
        (lambda: encoded(_red("RGB"), "WEBP", lossless=True), (255, 0, 0)),
        (lambda: encoded(_red("RGB"), "BMP"), (255, 0, 0)),
        # Over white: half of red is pink, nothing is white.
        (lambda: encoded(Image.new("RGBA", (9, 9), (255, 0, 0, 128))), (255, 127, 127)),
        (lambda: encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 0))), (255, 255, 255)),
        (lambda: encoded(Image.new("LA", (9, 9), (0, 0))), (255, 255, 255)),
        (lambda: encoded(Image.new("RGB", (9, 9), (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255)),
        (lambda: encoded(Image.fromarray(np.full((9, 9), 0x4D12, np.int32)), "PPM"), (0x4D,) * 3),
        # 16-bit grey keeps its upper byte; clipping would make it white.
        (lambda: encoded(Image.fromarray(np.full((9, 9), 0x4D12, np.uint16))), (0x4D,) * 3),
        (lambda: encoded(Image.fromarray(np.full((9, 9), 0x4D12, np.uint16)), "TIFF"), (0x4D,) * 3),
    ],
)
def test_every_mode_becomes_rgb(make: Callable[[], bytes], colour: tuple[int, ...]) -> None:
    assert flat(Recipe(8).decode(make())) == colour


def test_a_cmyk_jpeg_is_not_inverted() -> None:
    pixels = Recipe(8).decode(encoded(_red("CMYK"), "JPEG", quality=95)).astype(int)
    assert np.abs(pixels - np.array([255, 0, 0])[:, None, None]).max() < 10


def test_damaged_images_are_named_and_the_others_kept() -> None:
    good = encoded(Image.fromarray(pictures(1, 50, 50)[0]), "JPEG")
    files = {
        "good": good,
        "short": good[: len(good) // 2],
        "empty": b"",
        "text": b"not an image at all",
        "float": encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
        "also good": good,
    }
    decoded = Recipe(16).decode_all((name, lambda data=data: data) for name, data in files.items())
    assert [name for name, _ in decoded.damaged] == ["short", "empty", "text", "float"]
    assert all(reason for _, reason in decoded.damaged)
    assert np.array_equal(decoded.images, np.stack([Recipe(16).decode(good)] * 2))


def test_a_damaged_image_has_a_readable_reason() -> None:
    good = encoded(Image.fromarray(pictures(1, 50, 50)[0]), "PNG")
    files = {f"{at}": good[:at] + bytes(40) + good[at + 40 :] for at in range(0, len(good) - 40, 37)}
    files |= {kind: encoded(Image.new("RGB", (9, 9)), kind)[:30] for kind in FORMATS}
    damaged = Recipe(16).decode_all((name, lambda data=data: data) for name, data in files.items()).damaged
    assert len(damaged) > 10
    for _, reason in damaged:
        assert reason.strip()
        assert "object at" not in reason
        assert "BytesIO" not in reason


def test_a_file_that_runs_a_program_is_not_opened() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    decoded = Recipe(8).decode_all([("picture.jpg", lambda: eps)])
    assert len(decoded.damaged) == 1


def test_images_of_another_size_than_the_dataset_s_are_damaged() -> None:
    data = encoded(Image.new("RGB", (1024, 1024)))
    with pytest.raises(ValueError, match="1024×1024"):
        Recipe(64, 128, source_size=(178, 218)).decode(data)


@pytest.mark.parametrize(
    ("key", "value"), [("resample", "nearest"), ("image_size", 0), ("image_size", "big")]
)
def test_a_recipe_that_makes_no_sense_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        Recipe(**{"image_size": 32, key: value})
