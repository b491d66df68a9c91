"""scripts/generate.py: the run's own samples, as a grid or as files, whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Main = Callable[[list[str]], int]
Refused = Callable[[int], str]


@pytest.fixture
def generate(script: Callable[[str], Main]) -> Callable[..., int]:
    main = script("generate")
    return lambda *arguments: main([str(argument) for argument in (*arguments, "--device", "cpu")])


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_a_hundred_images_are_the_runs_last_grid(
    generate: Callable[..., int], finished: Path, tmp_path: Path
) -> None:
    grid = tmp_path / "grid.png"
    assert generate(finished, "--num", 100, "--out", grid) == 0
    np.testing.assert_array_equal(pixels_of(grid), pixels_of(finished / "samples" / "00000003.png"))


def test_single_images_are_those_of_the_grid(
    generate: Callable[..., int], finished: Path, tmp_path: Path
) -> None:
    grid, folder = tmp_path / "grid.png", tmp_path / "new" / "folder"
    assert generate(finished, "--num", 130, "--out", folder) == 0
    assert generate(finished, "--num", 130, "--out", grid) == 0
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{number:06d}.png" for number in range(130)]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]

    cells = pixels_of(grid)  # 12 to a row, each with a border of two pixels
    for number in (0, 99, 100, 129):
        top, left = 2 + 34 * (number // 12), 2 + 34 * (number % 12)
        np.testing.assert_array_equal(
            pixels_of(files[number]), cells[top : top + 32, left : left + 32], err_msg=str(number)
        )


def test_sources_are_alike_and_seeds_are_not(
    generate: Callable[..., int], finished: Path, tmp_path: Path
) -> None:
    sources = {
        "run": [finished],
        "weights": [finished / "generator.safetensors"],
        "checkpoint": [finished / "checkpoints" / "00000003.pt"],
        "same seed": [finished, "--seed", 0],
        "before": [finished / "checkpoints" / "00000002.pt"],
        "other seed": [finished, "--seed", 1],
    }
    for name, arguments in sources.items():
        assert generate(*arguments, "--num", 4, "--out", tmp_path / f"{name}.png") == 0
    images = {name: (tmp_path / f"{name}.png").read_bytes() for name in sources}
    assert images["run"] == images["weights"] == images["checkpoint"] == images["same seed"]
    assert images["run"] != images["before"]
    assert images["run"] != images["other seed"]


def test_a_folder_with_something_in_it_is_left_alone(
    generate: Callable[..., int], finished: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "not an empty folder" in refused(generate(finished, "--out", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name",
    ["grid.jpg", "grid.WEBP", "a.pdf", "a.svg", "a.gif", "a.npz", "a.avif", "a.heic", "a.mp4", "a.zip"],
)
def test_a_file_that_is_no_png_is_refused(
    generate: Callable[..., int], finished: Path, tmp_path: Path, refused: Refused, name: str
) -> None:
    assert "a.png" in refused(generate(finished, "--out", tmp_path / name)).replace("grid", "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["lr0.0002", "samples.v2", "seed0-1.bssn", ".hidden"])
def test_a_folder_may_have_a_dot_in_its_name(
    generate: Callable[..., int], finished: Path, tmp_path: Path, name: str
) -> None:
    assert generate(finished, "--num", 1, "--out", tmp_path / name) == 0
    assert [path.name for path in (tmp_path / name).iterdir()] == ["000000.png"]


def test_a_tilde_that_the_shell_left_is_the_home(
    generate: Callable[..., int],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").symlink_to(finished)
    assert generate("~/run", "--num", 1, "--out=~/grid.png") == 0
    assert (tmp_path / "grid.png").is_file()
    with pytest.raises(SystemExit, match=r"^2$"):
        generate("~/run", "--out=~no-such-user/grid.png")
    assert "names the home of nobody here" in capsys.readouterr().err


def test_what_is_wrong_is_one_sentence_and_leaves_nothing(
    generate: Callable[..., int], finished: Path, tmp_path: Path, refused: Refused
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    grid = out / "grid.png"
    assert "is not a run directory" in refused(generate(empty, "--out", grid))
    assert "does not exist" in refused(generate(tmp_path / "nothing", "--out", grid))
    assert "less than one" in refused(generate(finished, "--num", 0, "--out", grid))
    assert "negative" in refused(generate(finished, "--seed", -1, "--out", grid))
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(generate(finished, "--out", tmp_path / "file" / "grid.png"))
    assert "cannot be written" in refused(generate(finished, "--out", tmp_path / "file" / "folder"))
    assert list(out.iterdir()) == []
