"""STL-10: the pixels of an independent reading, columns first."""

import tarfile
from pathlib import Path

import numpy as np
import official_archives
import pytest
from PIL import Image

from gan_lab.data import stl10
from gan_lab.errors import UserError


def test_pixels_are_exactly_those_of_an_independent_reading(tmp_path: Path) -> None:
    archive = tmp_path / "stl10_binary.tar.gz"
    original = official_archives.stl10(archive)
    array = stl10.prepare(tmp_path, image_size=96, verify=False).images
    assert np.array_equal(array, original.transpose(0, 3, 1, 2))  # what was put in

    with tarfile.open(archive) as files:  # and pixel by pixel from the file's definition
        file = files.extractfile("stl10_binary/unlabeled_X.bin")
        assert file is not None
        content = file.read()
    for image, channel, row, column in [(0, 0, 5, 7), (3, 1, 95, 0), (39, 2, 0, 95), (17, 2, 60, 31)]:
        assert (
            array[image, channel, row, column] == content[image * 27648 + channel * 9216 + column * 96 + row]
        )


def test_the_48_pixel_array_is_each_image_resized(tmp_path: Path) -> None:
    original = official_archives.stl10(tmp_path / "stl10_binary.tar.gz", count=300)  # more than a chunk
    array = stl10.prepare(tmp_path, verify=False).images
    assert array.shape == (300, 3, 48, 48)
    for image, ours in zip(original, array, strict=True):
        expected = np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC))
        assert np.array_equal(ours, expected.transpose(2, 0, 1))


def test_a_file_that_is_not_a_whole_number_of_images_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "stl10_binary.tar.gz", "w:gz") as files:
        official_archives.add_file(files, "stl10_binary/unlabeled_X.bin", bytes(27648 + 1))
    with pytest.raises(UserError, match="not a whole number of images"):
        stl10.prepare(tmp_path, verify=False)
