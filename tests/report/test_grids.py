"""Sample grids within a budget of bytes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_runs import make_run

from gan_lab.report import grids


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    root = tmp_path_factory.mktemp("outputs")
    return [(make_run(root, seed=seed, rows=20, grids=15) / "samples", 32) for seed in range(3)]


@pytest.mark.parametrize("budget", [600_000, 120_000, 40_000])
def test_they_fit_and_none_is_left_out(folders: list[tuple[Path, int]], budget: int) -> None:
    shrunk, unread = grids.shrink(folders, budget)
    assert unread == []
    assert 0.2 * budget < sum(len(grid.webp) for some in shrunk for grid in some) <= budget
    for (folder, _), some in zip(folders, shrunk, strict=True):
        every = list(grids.available(folder))
        assert len(every) == 15
        assert len(some) == grids.STEPS
        assert (some[0].iteration, some[-1].iteration) == (every[0], every[-1])


def test_the_first_images_are_shown(folders: list[tuple[Path, int]]) -> None:
    shrunk, _ = grids.shrink(folders[:1], 10**7)
    path = list(grids.available(folders[0][0]).values())[-1]
    side = grids.TILES * 34 + 2
    whole = np.asarray(Image.open(path).convert("RGB"), float)[:side, :side]
    shown = np.asarray(Image.open(io.BytesIO(shrunk[0][-1].webp)).convert("RGB"), float)
    assert shown.shape == whole.shape
    assert np.abs(shown - whole).mean() < 12


def test_other_sizes_are_shown_whole(tmp_path: Path) -> None:
    Image.new("RGB", (50, 30), "red").save(tmp_path / "00000007.png")
    ((grid,),), unread = grids.shrink([(tmp_path, 32)], 10**6)
    assert unread == []
    assert grid.iteration == 7
    assert Image.open(io.BytesIO(grid.webp)).size == (50, 30)


def test_damaged_and_foreign_files_are_named_or_passed_by(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "00000001.png")
    Image.new("RGB", (50, 50)).save(tmp_path / "notes.png")
    (tmp_path / "00000002.png").write_bytes(b"\x89PNG\r\n\x1a\nnot one")
    Image.new("RGB", (50, 50)).save(tmp_path / "00000003.png", format="GIF")
    Image.new("1", (8_000, 8_000)).save(tmp_path / "00000004.png")
    ((grid,),), unread = grids.shrink([(tmp_path, 32)], 10**6)
    assert grid.iteration == 1
    assert len(unread) == 3


def test_no_room_is_said(folders: list[tuple[Path, int]]) -> None:
    shrunk, unread = grids.shrink(folders, 100)
    assert shrunk == [[], [], []]
    assert unread == ["36 grids have no room on the page"]


def test_no_grids_are_no_trouble(tmp_path: Path) -> None:
    assert grids.shrink([(tmp_path / "none", 32)], 1000) == ([[]], [])
