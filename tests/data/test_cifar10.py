"""CIFAR-10: the pixels of an independent reading, and no pickle that does more than hold arrays."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import official_archives
import pytest

from gan_lab.data import cifar10
from gan_lab.errors import UserError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "cifar-10-python.tar.gz"


def test_pixels_are_exactly_those_of_an_independent_reading(archive: Path, tmp_path: Path) -> None:
    original = official_archives.cifar10(archive)
    array = cifar10.prepare(tmp_path, verify=False).images
    assert np.array_equal(array, original.transpose(0, 3, 1, 2))  # what was put in

    batches = []
    with tarfile.open(archive) as files:  # and as the dataset's own page reads it
        for number in range(1, 6):
            file = files.extractfile(f"cifar-10-batches-py/data_batch_{number}")
            assert file is not None
            batches.append(pickle.loads(file.read(), encoding="latin1")["data"])
    assert np.array_equal(array, np.concatenate(batches).reshape(-1, 3, 32, 32))


def test_batches_larger_than_a_chunk_keep_their_order(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10.PickledBatches, "rows_per_chunk", 5)
    original = official_archives.cifar10(archive, per_batch=12)
    assert np.array_equal(cifar10.prepare(tmp_path, verify=False).images, original.transpose(0, 3, 1, 2))


def test_another_size_is_resized_and_kept_apart(archive: Path, tmp_path: Path) -> None:
    official_archives.cifar10(archive)
    plain = cifar10.prepare(tmp_path, verify=False)
    resized = cifar10.prepare(tmp_path, image_size=48, verify=False)
    assert resized.images.shape == (60, 3, 48, 48)
    assert plain.path != resized.path


class _Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("what", ["evil", "text", "floats", "no data"])
def test_a_batch_that_is_anything_else_is_refused(archive: Path, tmp_path: Path, what: str) -> None:
    content = {
        "evil": pickle.dumps({b"data": _Evil(tmp_path / "evil")}, protocol=2),
        "text": b"not a pickle",
        "floats": pickle.dumps({b"data": np.zeros((3, 3072))}, protocol=2),
        "no data": pickle.dumps({b"labels": [1]}, protocol=2),
    }[what]
    with tarfile.open(archive, "w:gz") as files:
        info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        info.size = len(content)
        files.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match="no batch of CIFAR-10"):
        cifar10.prepare(tmp_path, verify=False)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]
