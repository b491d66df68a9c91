"""A folder of images is judged as it is trained on, whatever its files are made of and called."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from averages import JUDGED_BY_AVERAGES
from PIL import Image
from sklearn.datasets import load_digits

from gan_lab.commands.prepare_data import prepare
from gan_lab.config import compose, resolved, to_judge
from gan_lab.evaluate import judge

COUNT = 24
SIZES = [(8, 8), (21, 13), (5, 9)]  # of files, where the dataset has 8×8


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    """Transparent where it is dark, by degrees."""
    image = image.convert(mode)
    image.putalpha(image.convert("L").point(lambda grey: min(255, 64 + grey)))
    return image


def of_16_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257 + 20)


def animation(image: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    return image.convert("P"), {"save_all": True, "append_images": [Image.new("P", image.size, 3)]}


Encoder = Callable[[Image.Image], tuple[Image.Image, dict[str, Any]]]
ENCODINGS: dict[str, tuple[str, Encoder]] = {
    "1 bit": (".png", lambda image: (image.convert("1"), {})),
    "grey": (".png", lambda image: (image.convert("L"), {})),
    "grey and alpha": (".png", lambda image: (with_alpha(image, "LA"), {})),
    "palette": (".png", lambda image: (image.convert("P"), {})),
    "palette, one colour transparent": (".png", lambda image: (image.convert("P"), {"transparency": 0})),
    "palette, alpha of each colour": (
        ".png",
        lambda image: (image.convert("P"), {"transparency": bytes(range(256))}),
    ),
    "RGB": (".png", lambda image: (image, {})),
    "RGB, one colour transparent": (".png", lambda image: (image, {"transparency": (0, 0, 0)})),
    "RGBA": (".png", lambda image: (with_alpha(image, "RGBA"), {})),
    "16 bits": (".png", lambda image: (of_16_bits(image), {})),
    "PNG, turned": (".png", lambda image: (image, {"exif": turned()})),
    "JPEG": (".jpg", lambda image: (image, {})),
    "JPEG, grey": (".JPEG", lambda image: (image.convert("L"), {})),
    "JPEG, CMYK": (".jpeg", lambda image: (image.convert("CMYK"), {})),
    "JPEG, turned": (".JPG", lambda image: (image, {"exif": turned()})),
    "WEBP": (".webp", lambda image: (image, {})),
    "WEBP with alpha": (".webp", lambda image: (with_alpha(image, "RGBA"), {"lossless": True})),
    "BMP": (".bmp", lambda image: (image, {})),
    "BMP of 1 bit": (".bmp", lambda image: (image.convert("1"), {})),
    "GIF": (".gif", lambda image: (image.convert("P"), {})),
    "GIF, transparent": (".gif", lambda image: (image.convert("P"), {"transparency": 0})),
    "GIF, animated": (".gif", animation),
    "TIFF": (".tif", lambda image: (image, {})),
    "TIFF, CMYK": (".tiff", lambda image: (image.convert("CMYK"), {})),
    "TIFF of 16 bits": (".tiff", lambda image: (of_16_bits(image), {})),
    "PPM": (".ppm", lambda image: (image, {})),
    "PGM": (".pgm", lambda image: (image.convert("L"), {})),
}


def write(place: Path, kinds: list[str], sizes: list[tuple[int, int]], first: int = 0) -> Path:
    """Digits of two colours in class folders, of these encodings and sizes in turn."""
    digits = load_digits()
    for number in range(first, first + COUNT):
        suffix, encode = ENCODINGS[kinds[number % len(kinds)]]
        grey = Image.fromarray((digits.images[number] * 15.9).astype(np.uint8))
        picture = Image.merge("RGB", (grey, grey.point(lambda level: 255 - level), grey))
        picture, options = encode(picture.resize(sizes[number % len(sizes)]))
        file = place / str(digits.target[number]) / f"{number}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, **options)
    return place


@pytest.fixture
def figures(tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Judges a folder against another, both as `dataset=folder` reads them."""

    def call(judged: Path, real: Path, *overrides: str, **options: Any) -> dict[str, float]:
        common = [*JUDGED_BY_AVERAGES, f"dataset.path={real}", f"paths.data={tmp_path}/data"]
        common += ["dataset.image_size=8", "metrics.digits.kid_subset_size=8", "metrics.digits.is_splits=2"]
        return judge(judged, "folder", overrides=[*common, *overrides], **options).values

    return call


Figures = Callable[..., dict[str, float]]


@pytest.mark.parametrize("kind", [*ENCODINGS, "all"])
def test_a_folder_has_no_distance_from_itself(kind: str, figures: Figures, tmp_path: Path) -> None:
    kinds = list(ENCODINGS) if kind == "all" else [kind]
    place = write(tmp_path / "images", kinds, SIZES)
    values = figures(place, place, measure=["fid", "prc"])
    name = f"metric/fid_averages_{COUNT}"
    assert abs(values[name]) < 1e-3
    assert {value for other, value in values.items() if other != name} == {1.0}
    if kind == "all":
        others = write(tmp_path / "others", kinds, SIZES, first=100)
        assert figures(others, place, measure=["fid"])[name] > 1


def test_the_number_judged_is_that_of_preparation(
    figures: Figures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hidden, damaged and other files among them; what is left out is said by both."""
    place = write(tmp_path / "images", list(ENCODINGS), [(9, 9)])
    (place / ".Trash-1000").mkdir()
    shutil.copy(next(place.glob("*/0.png")), place / ".Trash-1000" / "0.png")
    shutil.copy(next(place.glob("*/0.png")), place / "again.png")
    (place / "damaged.jpg").write_bytes(b"no image")
    (place / "notes.txt").touch()
    damaged = "dataset.max_damaged=0.1"
    overrides = ["dataset=folder", f"dataset.path={place}", f"paths.data={tmp_path}/data", damaged]
    said = prepare(to_judge(resolved(compose([*overrides, "dataset.image_size=8"]))))
    counted = f"{COUNT + 1} images"
    left_out = ("1 damaged", "passed over 1 .txt")
    assert all(words in said for words in (counted, *left_out))
    capsys.readouterr()
    (name,) = figures(place, place, damaged, measure=["fid"])
    assert name == f"metric/fid_averages_{COUNT + 1}"
    heard = capsys.readouterr().err
    assert all(words in heard for words in (counted, *left_out))


def rename(place: Path) -> None:
    for number, file in enumerate(sorted(place.rglob("*.*"), reverse=True)):
        file.rename(file.with_stem(f"{number:03d} renamed"))


def flatten(place: Path) -> None:
    for file in list(place.rglob("*.*")):
        file.rename(place / f"{file.stem[::-1]} {file.parent.name}{file.suffix}")


def other_classes(place: Path) -> None:
    for number, folder in enumerate(sorted(place.iterdir())):
        folder.rename(place / f"z{9 - number}")


@pytest.mark.parametrize("num", [None, 16])
@pytest.mark.parametrize("change", [rename, flatten, other_classes])
def test_what_files_are_called_changes_no_figure(
    change: Callable[[Path], None], num: int | None, figures: Figures, tmp_path: Path
) -> None:
    real = write(tmp_path / "real", ["RGB"], [(8, 8)], first=100)
    place = write(tmp_path / "images", list(ENCODINGS), [(8, 8)])
    wanted = {"measure": ["fid", "is", "kid", "prc"], "num": num}
    before = figures(place, real, "metrics.digits.num_fid=12", "metrics.digits.num_real=20", **wanted)
    change(place)
    change(real)
    after = figures(place, real, "metrics.digits.num_fid=12", "metrics.digits.num_real=20", **wanted)
    assert after == before
    assert len(after) == 7
