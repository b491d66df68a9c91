"""What is known of real images is computed once, and kept under a key of all that it depends on."""

import dataclasses
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_lab.data import ImageArray, open_array
from gan_lab.metrics import cache, features
from gan_lab.metrics.extractors import Extractor
from gan_lab.metrics.features import Counts, of_real
from gan_lab.metrics.moments import Moments

Make = Callable[..., Extractor]
Images = Callable[..., Tensor]
ArrayOf = Callable[..., ImageArray]

ALL = Counts(fid=30, kid_prc=10)


def seen_by(extractor: Extractor) -> int:
    seen, extractor.network.seen = extractor.network.seen, 0
    return seen


def test_the_second_time_nothing_is_computed_and_all_is_the_same(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    real, extractor = array_of(images(30, seed=1)), projection()
    first = of_real(real, ALL, extractor, tmp_path, batch_size=7)
    assert seen_by(extractor) == 30  # one pass for both
    second = of_real(open_array(real.path), ALL, extractor, tmp_path, batch_size=5)
    assert seen_by(extractor) == 0
    for name in ("mu", "sigma"):
        np.testing.assert_array_equal(first[0][name], second[0][name])
    assert torch.equal(first[1], second[1])
    assert first[1].shape == (10, 6)


def test_what_is_asked_for_later_is_computed_alone_and_is_the_same(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    real, extractor = array_of(images(30, seed=1)), projection()
    together = of_real(real, ALL, extractor, tmp_path / "together", batch_size=30)
    seen_by(extractor)
    statistics, none = of_real(real, Counts(30, 0), extractor, tmp_path / "apart", batch_size=30)
    assert seen_by(extractor) == 30
    assert none.numel() == 0
    _, kept = of_real(real, ALL, extractor, tmp_path / "apart", batch_size=30)
    assert seen_by(extractor) == 10
    np.testing.assert_array_equal(statistics["sigma"], together[0]["sigma"])
    torch.testing.assert_close(kept, together[1], rtol=1e-6, atol=1e-6)


def test_a_number_of_images_is_a_subset_of_a_larger_one_and_not_simply_the_first(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    """Datasets come sorted by class; the first images would be of a few classes alone."""
    pixels = images(30, seed=1)
    every, _ = projection()(pixels)

    def chosen(count: int) -> set[int]:
        real = array_of(pixels)
        _, kept = of_real(real, Counts(0, count), projection(), tmp_path, batch_size=30)
        distances = torch.cdist(kept.double(), every.double())
        assert distances.min(dim=1).values.max() < 1e-4
        return set(distances.argmin(dim=1).tolist())

    assert len(chosen(10)) == 10
    assert chosen(10) != set(range(10))
    assert chosen(5) < chosen(10) < chosen(30) == set(range(30))


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "torch": lambda patch: patch.setattr(torch, "__version__", "99.0"),
    "torch-fidelity": lambda patch: patch.setattr(features, "version", lambda name: "99.0"),
    "format": lambda patch: patch.setattr(features, "FORMAT", -1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_version_is_another_key(
    projection: Make,
    images: Images,
    array_of: ArrayOf,
    tmp_path: Path,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, extractor = array_of(images(30, seed=1)), projection()
    of_real(real, ALL, extractor, tmp_path, batch_size=30)
    seen_by(extractor)
    CHANGES[change](monkeypatch)
    of_real(real, ALL, extractor, tmp_path, batch_size=30)
    assert seen_by(extractor) == 30


def test_other_images_another_preparation_extractor_or_number_are_other_keys(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    pixels = images(30, seed=1)
    one_off = pixels.clone()
    one_off[-1, -1, -1, -1] ^= 1
    real, extractor = array_of(pixels), projection()
    of_real(real, ALL, extractor, tmp_path, batch_size=30)
    seen_by(extractor)

    others = {
        "content": (array_of(one_off, "other"), extractor, ALL),
        "preparation": (array_of(pixels, "other", resize="bilinear"), extractor, ALL),
        "weights": (real, projection(weights="others"), ALL),
        "layers": (
            real,
            dataclasses.replace(extractor, identity={**extractor.identity, "layers": ["x"]}),
            ALL,
        ),
        "number for FID": (real, extractor, Counts(29, 10)),
        "number kept": (real, extractor, Counts(30, 11)),
    }
    files = set(tmp_path.glob("real-*.npz"))
    for what, (array, network, counts) in others.items():
        of_real(array, counts, network, tmp_path, batch_size=30)
        assert seen_by(network) > 0, what
        new = set(tmp_path.glob("real-*.npz")) - files
        assert new, what
        files |= new


def _truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path, other: Path) -> None:
    path.write_bytes(b"not a zip file at all" * 100)


def _flip_a_bit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _take_anothers(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def _no_archive(path: Path, other: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("damage", [_truncate, _empty, _garbage, _flip_a_bit, _take_anothers, _no_archive])
def test_a_damaged_cache_is_made_anew_with_a_warning(
    projection: Make,
    images: Images,
    array_of: ArrayOf,
    tmp_path: Path,
    damage: Callable[[Path, Path], None],
    warnings_of_metrics: pytest.LogCaptureFixture,
) -> None:
    real, extractor, counts = array_of(images(30, seed=1)), projection(), Counts(30, 0)
    folder = tmp_path / "cache"
    right, _ = of_real(real, counts, extractor, folder, batch_size=30)
    (path,) = folder.glob("*.npz")
    of_real(real, Counts(20, 0), extractor, folder, batch_size=30)
    (other,) = set(folder.glob("*.npz")) - {path}
    whole = path.read_bytes()
    damage(path, other)
    assert path.read_bytes() != whole
    seen_by(extractor)

    again, _ = of_real(real, counts, extractor, folder, batch_size=30)
    assert seen_by(extractor) == 30
    assert str(path) in warnings_of_metrics.text
    np.testing.assert_array_equal(again["sigma"], right["sigma"])
    of_real(real, counts, extractor, folder, batch_size=30)
    assert seen_by(extractor) == 0


def test_a_folder_that_cannot_be_written_costs_the_cache_and_not_the_run(
    projection: Make,
    images: Images,
    array_of: ArrayOf,
    tmp_path: Path,
    warnings_of_metrics: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    statistics, _ = of_real(array_of(images(30, seed=1)), ALL, projection(), tmp_path / "file", batch_size=30)
    assert statistics["sigma"].shape == (6, 6)
    assert "cannot be cached" in warnings_of_metrics.text


class Meeting(nn.Module):
    """In its first batch it waits for the other process's, so that the two surely overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.has_met = False

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if not self.has_met:
            barrier_of_all.wait()
            self.has_met = True
        flat = pixels.float().flatten(1)[:, :5]
        return flat, flat


def _meet_at(barrier: Any) -> None:
    """Called once in each process."""
    global barrier_of_all
    barrier_of_all = barrier


def _compute(path: Path, folder: Path) -> tuple[Any, Any]:
    statistics, kept = of_real(open_array(path), ALL, Extractor(Meeting(), {}, ""), folder, batch_size=3)
    return statistics["sigma"].tolist(), kept.tolist()


def test_processes_at_once_agree_and_leave_one_whole_cache(
    images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    real, folder = array_of(images(30, seed=1)), tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2, timeout=1800)  # so that a failure in one does not hang the other
    with ProcessPoolExecutor(2, context, initializer=_meet_at, initargs=(barrier,)) as workers:
        first, second = workers.map(_compute, [real.path] * 2, [folder] * 2)
    assert first == second
    assert len(list(folder.iterdir())) == 2  # statistics and features, and nothing half-written
    extractor = Extractor(Meeting(), {}, "")
    extractor.network.forward = lambda pixels: pytest.fail("computed again")  # type: ignore[method-assign]
    of_real(real, ALL, extractor, folder, batch_size=30)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1], np.float32)}
    assert cache.load(tmp_path, "kind", {"x": 1}) is None
    cache.store(tmp_path, "kind", {"x": 1}, arrays)
    back = cache.load(tmp_path, "kind", {"x": 1})
    assert back is not None
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype
    assert cache.load(tmp_path, "kind", {"x": 2}) is None
    assert cache.load(tmp_path, "other", {"x": 1}) is None


def test_moments_are_numpy_s_in_float64_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 1000 + torch.randn(137, 5, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("gan_lab.metrics.moments.BLOCK", 20)
    moments = Moments()
    for some in rows.split(9):
        moments.add(some)
    found, exact = moments.statistics(), rows.double().numpy()
    np.testing.assert_allclose(found["mu"], exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], np.cov(exact, rowvar=False), rtol=1e-9)
