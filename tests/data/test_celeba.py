"""CelebA: the centred square of each face, from the zip or from its folder."""

import io
import zipfile
from pathlib import Path

import numpy as np
import official_archives
import pytest
from PIL import Image

from gan_lab.data import celeba
from gan_lab.errors import UserError


def test_faces_are_cropped_and_resized_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    files = official_archives.celeba(tmp_path / "img_align_celeba.zip", count=300)  # more than a chunk
    array = celeba.prepare(tmp_path, verify=False).images
    assert array.shape == (300, 3, 64, 64)
    for data, ours in zip(files, array, strict=True):
        face = np.asarray(Image.open(io.BytesIO(data)))[45:173, 25:153]
        expected = np.asarray(Image.fromarray(face).resize((64, 64), Image.Resampling.BICUBIC))
        assert np.array_equal(ours, expected.transpose(2, 0, 1))


def test_the_folder_gives_what_the_zip_gives(tmp_path: Path) -> None:
    files = official_archives.celeba(tmp_path / "img_align_celeba.zip")
    folder = tmp_path / "data" / "img_align_celeba"
    folder.mkdir(parents=True)
    for number, data in enumerate(files):
        (folder / f"{number + 1:06d}.jpg").write_bytes(data)
    from_zip = celeba.prepare(tmp_path, verify=False)
    from_folder = celeba.prepare(tmp_path / "data", verify=False)  # found by its name
    assert np.array_equal(from_zip.images, from_folder.images)


def test_faces_of_another_form_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "w") as archive:
        for number in range(3):
            image = official_archives.jpeg(official_archives.pictures(1, 256, 256)[0])
            archive.writestr(f"celeba_hq/{number}.jpg", image)
    with pytest.raises(UserError, match="256×256"):
        celeba.prepare(tmp_path, verify=False)
