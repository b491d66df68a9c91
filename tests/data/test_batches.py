"""Batches: a function of (seed, iteration, step) alone, the same from memory and from the disk."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_lab.data import Batches, ImageArray, open_array, to_pixels, to_unit_range, write_array
from gan_lab.files import write_json

CPU = torch.device("cpu")


@pytest.fixture
def array(tmp_path: Path) -> ImageArray:
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 8, 8), dtype=np.uint8)
    return write_array(tmp_path / "some.npy", images, {})


@pytest.mark.parametrize("n_dis", [1, 3])
def test_batches_from_disk_are_the_resident_ones_bit_for_bit(array: ImageArray, n_dis: int) -> None:
    resident = Batches(array.images, 16, 5, CPU, n_dis=n_dis)
    on_disk = Batches(array.images, 16, 5, CPU, resident_bytes=array.images.nbytes - 1, n_dis=n_dis)
    keys = [(iteration, step) for iteration in range(1, 6) for step in range(n_dis)]
    keys += [(3, 0), (9, n_dis - 1), (10, 0), (2, 0), (2, 0)]  # out of order, and again
    for key in keys:
        assert torch.equal(resident.draw(*key), on_disk.draw(*key))


def test_a_batch_depends_on_its_key_alone(array: ImageArray) -> None:
    def draw(seed: int, iteration: int, step: int) -> torch.Tensor:
        return Batches(array.images, 16, seed, CPU).draw(iteration, step)

    batches = Batches(array.images, 16, 0, CPU)
    drawn = [batches.draw(iteration, 0) for iteration in (7, 3, 7)]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0], draw(0, 7, 0))
    others = [draw(0, 7, 1), draw(0, 8, 0), draw(1, 7, 0)]
    assert not any(torch.equal(drawn[0], other) for other in others)


@pytest.mark.parametrize("resident_bytes", [0, 1e12])
def test_every_drawn_image_is_one_of_the_array_in_unit_range(
    array: ImageArray, resident_bytes: float
) -> None:
    batch = Batches(array.images, 64, 0, CPU, resident_bytes).draw(1, 0)
    known = {image.tobytes() for image in array.images}
    assert batch.shape == (64, 3, 8, 8)
    assert batch.dtype == torch.float32
    assert -1 <= batch.min() < -0.9 < 0.9 < batch.max() <= 1
    assert all(image.tobytes() in known for image in to_pixels(batch).numpy())


def test_images_are_drawn_uniformly_with_replacement() -> None:
    # Image k is filled with the value k: 100 of them, drawn 20,000 times.
    images = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None], (100, 3, 2, 2))
    batches = Batches(np.ascontiguousarray(images), 100, 0, CPU)
    drawn = torch.stack([to_pixels(batches.draw(k, 0))[:, 0, 0, 0] for k in range(200)])
    counts = torch.bincount(drawn.flatten(), minlength=100).double()
    chi_squared = ((counts - 200) ** 2 / 200).sum()
    assert 55 < chi_squared < 160  # 99 degrees of freedom: outside with a probability of 2e-4
    distinct = np.mean([len(row.unique()) for row in drawn])
    assert distinct == pytest.approx(100 * (1 - 0.99**100), abs=1.5)  # 63.4; without replacement 100


def test_pixels_survive_the_way_to_floats_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    floats = to_unit_range(pixels)
    assert floats[0] == -1
    assert floats[-1] == 1
    assert torch.equal(to_pixels(floats), pixels)


def test_an_error_of_the_disk_is_raised_and_not_swallowed(array: ImageArray) -> None:
    batches = Batches(array.images, 16, 0, CPU, resident_bytes=0)
    with array.path.open("rb+") as file:
        file.truncate(200)
    with pytest.raises(OSError, match="ends early"):
        batches.draw(1, 0)


def test_imagenet_s_63_gb_are_drawn_from_without_filling_the_resident_set(tmp_path: Path) -> None:
    path, shape = tmp_path / "imagenet.npy", (1_281_167, 3, 128, 128)
    with path.open("wb") as file:  # a sparse file: all zeros, nothing on the disk
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
    write_json(path.with_suffix(".json"), {"shape": list(shape)})
    array = open_array(path)
    batches = Batches(array.images, 64, 0, CPU, resident_bytes=4e9, n_dis=5)
    batches.draw(0, 0)
    before = _mapped_pages()
    for iteration in range(40):
        for step in range(5):
            assert batches.draw(iteration, step).max() == -1
    # 200 batches are 630 MB; read through the map, they would all stay in the resident set.
    assert _mapped_pages() - before < 50e6
    array.images[:2000].max()
    assert _mapped_pages() - before > 90e6  # so that the measure is known to see such pages


def _mapped_pages() -> int:
    """Bytes of files in this process's resident set."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssFile:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024
