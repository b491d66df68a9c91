"""Batches: a function of (seed, iteration, update) only, the same from memory and from the disk."""

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
    sizes = [16] * n_dis + [5]
    resident = Batches(array.images, sizes, 5, CPU)
    on_disk = Batches(array.images, sizes, 5, CPU, resident_bytes=array.images.nbytes - 1)
    for iteration in (1, 2, 3, 4, 5, 3, 9, 10, 2, 2):  # out of order, and again
        pairs = list(zip(resident.draw(iteration), on_disk.draw(iteration), strict=True))
        assert [len(ours.images) for ours, _ in pairs] == sizes
        assert all(torch.equal(ours.images, theirs.images) for ours, theirs in pairs)


def test_a_batch_depends_on_its_key_alone(array: ImageArray) -> None:
    def draw(seed: int, iteration: int, update: int) -> torch.Tensor:
        return Batches(array.images, [16, 16], seed, CPU).draw(iteration)[update].images

    batches = Batches(array.images, [16], 0, CPU)
    drawn = [batches.draw(iteration)[0].images for iteration in (7, 3, 7)]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0], draw(0, 7, 0))
    others = [draw(0, 7, 1), draw(0, 8, 0), draw(1, 7, 0)]
    assert not any(torch.equal(drawn[0], other) for other in others)


@pytest.mark.parametrize("resident_bytes", [0, 1e12])
def test_every_drawn_image_is_one_of_the_array_in_unit_range(
    array: ImageArray, resident_bytes: float
) -> None:
    (batch, labels), *others = Batches(array.images, [64], 0, CPU, resident_bytes).draw(1)
    assert labels is None
    assert others == []
    known = {image.tobytes() for image in array.images}
    assert batch.shape == (64, 3, 8, 8)
    assert batch.dtype == torch.float32
    assert -1 <= batch.min() < -0.9 < 0.9 < batch.max() <= 1
    assert all(image.tobytes() in known for image in to_pixels(batch).numpy())


def test_images_are_drawn_uniformly_with_replacement() -> None:
    # Image k is filled with the value k: 100 of them, drawn 20,000 times.
    images = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None], (100, 3, 2, 2))
    batches = Batches(np.ascontiguousarray(images), [100], 0, CPU)
    drawn = torch.stack([to_pixels(batches.draw(k)[0].images)[:, 0, 0, 0] for k in range(200)])
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
    batches = Batches(array.images, [16], 0, CPU, resident_bytes=0)
    with array.path.open("rb+") as file:
        file.truncate(200)
    with pytest.raises(OSError, match="ends early"):
        batches.draw(1)


@pytest.mark.parametrize("resident_bytes", [0, 1e12])
def test_each_image_comes_with_its_class(tmp_path: Path, resident_bytes: float) -> None:
    # Image k is filled with the value k, and of class k % 7.
    images = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None], (100, 3, 2, 2))
    array = write_array(tmp_path / "some.npy", images, {})
    batches = Batches(array.images, [16, 4], 0, CPU, resident_bytes, labels=np.arange(100) % 7)
    for iteration in (1, 2, 5):
        for images, labels in batches.draw(iteration):
            assert torch.equal(to_pixels(images)[:, 0, 0, 0] % 7, labels)
    assert torch.equal(batches.draw_labels(3, 1, 4), batches.draw(3)[1].labels)
    generated = torch.cat([batches.draw_labels(iteration, 2, 100) for iteration in range(200)])
    assert not torch.equal(generated[:100], generated[100:200])
    expected = torch.tensor([15.0, 15, 14, 14, 14, 14, 14]) * 200
    assert (generated.bincount() - expected).abs().max() < 5 * 15**0.5 * 200**0.5  # standard deviations
    assert Batches(array.images, [4], 0, CPU).draw_labels(1, 0, 4) is None


def test_imagenet_s_63_gb_are_drawn_from_without_filling_the_resident_set(tmp_path: Path) -> None:
    path, shape = tmp_path / "imagenet.npy", (1_281_167, 3, 128, 128)
    with path.open("wb") as file:  # a sparse file: all zeros, nothing on the disk
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
    write_json(path.with_suffix(".json"), {"shape": list(shape)})
    array = open_array(path)
    batches = Batches(array.images, [64] * 5, 0, CPU, resident_bytes=4e9)
    batches.draw(0)
    before = _mapped_pages()
    for iteration in range(40):
        assert all(images.max() == -1 for images, _ in batches.draw(iteration))
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
