"""A user's folder: every image in it, once, in order; a change in it makes another array."""

import json
from pathlib import Path

import numpy as np
import pytest
from official_archives import pictures
from PIL import Image

from gan_lab.data import folder
from gan_lab.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images below a folder, of mixed formats, sizes and colours, among other files."""
    place = tmp_path / "my images"
    (place / "b" / "deep").mkdir(parents=True)
    picture = Image.fromarray(pictures(1, 70, 90)[0])
    picture.save(place / "b" / "deep" / "one.JPG")
    picture.convert("L").save(place / "a.png")
    picture.convert("RGBA").resize((64, 33)).save(place / "c.webp")
    picture.convert("CMYK").save(place / "b" / "two.jpeg")
    picture.convert("P").save(place / "z.gif")
    (place / "notes.txt").write_text("not an image")
    (place / "._a.png").write_bytes(b"what macOS leaves beside a file")
    return place


def test_all_images_are_taken_in_the_order_of_their_paths(images: Path, tmp_path: Path) -> None:
    array = folder.prepare(tmp_path / "data", str(images), image_size=32)
    assert array.images.shape == (5, 3, 32, 32)
    order = ["a.png", "b/deep/one.JPG", "b/two.jpeg", "c.webp", "z.gif"]
    for name, ours in zip(order, array.images, strict=True):
        alone = tmp_path / "alone" / name
        alone.parent.mkdir(parents=True, exist_ok=True)
        alone.write_bytes((images / name).read_bytes())
        single = folder.prepare(tmp_path / "data", str(tmp_path / "alone"), image_size=32)
        assert np.array_equal(single.images, ours[None])
        alone.unlink()


def test_a_changed_folder_is_prepared_anew_and_a_moved_one_is_not(images: Path, tmp_path: Path) -> None:
    first = folder.prepare(tmp_path / "data", str(images))
    moved = images.rename(tmp_path / "moved")
    assert folder.prepare(tmp_path / "data", str(moved)).path == first.path
    (moved / "a.png").unlink()
    assert len(folder.prepare(tmp_path / "data", str(moved)).images) == 4


def test_arrays_made_differently_never_mix(images: Path, tmp_path: Path) -> None:
    recipes = [{}, {"image_size": 32}, {"resample": "lanczos"}, {"resample": "box"}]
    arrays = [folder.prepare(tmp_path, str(images), **recipe) for recipe in recipes]
    assert len({array.path for array in arrays}) == len({array.fingerprint for array in arrays}) == 4
    assert "lanczos" in arrays[2].metadata["resize"]
    assert "antialiased" in arrays[2].metadata["resize"]


def test_linked_folders_are_followed_and_loops_end(images: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "class").symlink_to(images)
    (images / "b" / "loop").symlink_to(links)
    assert len(folder.prepare(tmp_path / "data", str(links)).images) == 5


@pytest.mark.parametrize("place", ["missing", "empty", "file.png"])
def test_a_folder_without_images_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(UserError, match=place):
        folder.prepare(tmp_path / "data", str(tmp_path / place))
    assert not list(tmp_path.glob("data/*"))


def test_an_unreadable_image_counts_as_damaged(images: Path, tmp_path: Path) -> None:
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    array = folder.prepare(tmp_path / "data", str(images), max_damaged=0.2)
    assert len(array.images) == 5
    assert "No such file" in json.loads(array.path.with_suffix(".damaged.json").read_text())["gone.png"]
