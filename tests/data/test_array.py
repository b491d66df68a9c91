"""The prepared array: whole, checked when opened, and read by rows without filling the resident set."""

import json
from pathlib import Path

import numpy as np
import pytest

from gan_lab.data import open_array, read_rows, write_array
from gan_lab.errors import UserError


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)


def test_what_is_written_is_what_is_opened(tmp_path: Path, images: np.ndarray) -> None:
    array = write_array(tmp_path / "some.npy", images, {"name": "some"})
    assert np.array_equal(array.images, images)
    assert np.array_equal(np.load(tmp_path / "some.npy"), images)
    assert array.path == tmp_path / "some.npy"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.json", "some.npy"]


def test_the_fingerprint_depends_on_content_and_on_preparation(tmp_path: Path, images: np.ndarray) -> None:
    arrays = [
        write_array(tmp_path / "a.npy", images, {"resize": "one way"}),
        write_array(tmp_path / "b.npy", images, {"resize": "another"}),
        write_array(tmp_path / "c.npy", images[::-1], {"resize": "one way"}),
    ]
    assert len({array.fingerprint for array in arrays}) == 3
    assert open_array(tmp_path / "a.npy").fingerprint == arrays[0].fingerprint


def test_only_uint8_images_of_three_channels_are_arrays(tmp_path: Path, images: np.ndarray) -> None:
    for wrong in (images.astype(np.float32), images[:, :1], images[0]):
        with pytest.raises(ValueError, match="uint8"):
            write_array(tmp_path / "wrong.npy", wrong, {})
    assert not list(tmp_path.iterdir())


def test_an_array_that_is_not_what_its_metadata_says_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "some.npy"
    write_array(path, images, {})
    facts = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**facts, "shape": [51, 3, 8, 8]}))
    with pytest.raises(UserError, match="delete it"):
        open_array(path)
    path.with_suffix(".json").write_text(json.dumps(facts))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="delete it"):
        open_array(path)
    path.unlink()
    with pytest.raises(UserError, match="delete it"):
        open_array(path)


def test_rows_are_those_of_plain_indexing(tmp_path: Path, images: np.ndarray) -> None:
    mapped = write_array(tmp_path / "some.npy", images, {}).images
    for index in ([3, 3, 49, 0], [], list(range(50))):
        index = np.array(index, np.int64)
        assert np.array_equal(read_rows(mapped, index), images[index])
        assert np.array_equal(read_rows(images, index), images[index])
        assert np.array_equal(read_rows(mapped[5:], index[index < 45]), images[5:][index[index < 45]])


@pytest.mark.parametrize("row", [-1, 50])
def test_rows_outside_are_refused(tmp_path: Path, images: np.ndarray, row: int) -> None:
    mapped = write_array(tmp_path / "some.npy", images, {}).images
    with pytest.raises(IndexError):
        read_rows(mapped, np.array([0, row]))


def test_a_file_that_shrank_is_an_error(tmp_path: Path, images: np.ndarray) -> None:
    mapped = write_array(tmp_path / "some.npy", images, {}).images
    with (tmp_path / "some.npy").open("rb+") as file:
        file.truncate(4000)
    with pytest.raises(OSError, match="ends early"):
        read_rows(mapped, np.array([49]))
