"""What a run was trained on is part of what it is: other images are refused, the same ones cost nothing."""

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from averages import JUDGED_BY_AVERAGES
from omegaconf import DictConfig
from PIL import Image
from sklearn.datasets import load_digits

from gan_lab import run as module
from gan_lab.config import compose, load
from gan_lab.errors import UserError
from gan_lab.evaluate import judge
from gan_lab.report.comparison import compare, read_scores
from gan_lab.report.runs import find
from gan_lab.run import run
from gan_lab.runs.directory import WRONG_CONFIG, RunDirectory

COUNT = 12


def write(place: Path, count: int = COUNT, first: int = 0) -> Path:
    """Digits in two folders, which are classes to ImageNet."""
    for number, image in enumerate(load_digits().images[first : first + count] * 15.9):
        file = place / f"n0{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(file)
    return place


@pytest.fixture(params=["folder", "unverified"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Overrides for images in `tmp_path / "images"`: a user's folder, or one like a published dataset's."""
    place = write(tmp_path / "images")
    if request.param == "folder":
        return ["dataset=folder", f"dataset.path={place}"]
    return ["dataset=imagenet", f"dataset.raw={place}", "dataset.verify=false", "arch=dcgan"]


@pytest.fixture
def command(tmp_path: Path, images: list[str]) -> list[str]:
    """A run of a moment on them."""
    common = ["experiment=tiny", "metrics=none", "tracker=local", "device=cpu", "dataset.image_size=32"]
    common += ["arch.width=0.0625", "train.batch_size=4", "train.iterations=2", "train.checkpoint_every=1"]
    return [*images, *common, f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs"]


def moved_to(command: list[str], place: Path) -> list[str]:
    key = "dataset.path" if "dataset=folder" in command else "dataset.raw"
    return [*command, f"{key}='{place}'"]


@functools.cache
def composed(*command: str) -> DictConfig:
    return compose(command)


def status(command: list[str]) -> int:
    return run(composed(*command)).exit_status


def directory(command: list[str]) -> RunDirectory:
    return RunDirectory(load(composed(*command)).run_directory)


def replace(place: Path) -> None:
    shutil.rmtree(place)
    write(place, first=100)


def replace_one(place: Path) -> None:
    """By one of the same size and times."""
    file = place / "n00" / "0.png"
    facts = file.stat()
    Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def add(place: Path) -> None:
    write(place / "n00" / "more", count=1, first=200)


def remove(place: Path) -> None:
    (place / "n01" / "1.png").unlink()


@pytest.mark.parametrize("change", [replace, replace_one, add, remove])
def test_other_images_are_refused(
    change: Callable[[Path], None],
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status(command) == 0
    before = {file: file.read_bytes() for file in directory(command).root.rglob("*") if file.is_file()}
    change(tmp_path / "images")
    longer = [*command, "train.iterations=3"]
    for again in (command, longer):
        assert status(again) == WRONG_CONFIG
        assert "are not those that" in capsys.readouterr().err
    after = {file: file.read_bytes() for file in directory(command).root.rglob("*") if file.is_file()}
    assert {file: text for file, text in after.items() if file.name not in ("lock", "train.log")} == {
        file: text for file, text in before.items() if file.name not in ("lock", "train.log")
    }
    assert status([*longer, "fresh=true"]) == 0
    assert status(longer) == 0


def test_an_interrupted_run_refuses_other_images(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("gan_lab.runs.store.Store.write_networks", lambda *given: 1 / 0)
        assert status(command) == 1
    replace(tmp_path / "images")
    assert status(command) == WRONG_CONFIG


def move(place: Path) -> Path:
    return place.rename(place.with_name("moved (1)"))


def copy(place: Path) -> Path:
    return shutil.copytree(place, place.with_name("copied"), copy_function=shutil.copyfile)


def touch(place: Path) -> Path:
    for file in place.rglob("*.png"):
        os.utime(file, (1, 1))
    return place


def delete(place: Path) -> Path:
    shutil.rmtree(place)
    return place


def empty(place: Path) -> Path:
    shutil.rmtree(place)
    place.mkdir()
    return place


@pytest.mark.parametrize("change", [move, copy, touch, delete, empty])
def test_a_finished_run_is_finished_wherever_its_images_lie(
    change: Callable[[Path], Path],
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status(command) == 0
    again = moved_to(command, change(tmp_path / "images"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_train", None)  # nothing is started
        assert status(again) == 0
    assert "already finished at iteration 2" in capsys.readouterr().out


@pytest.mark.parametrize("change", [move, copy, touch])
def test_a_longer_run_continues_wherever_its_images_lie(
    change: Callable[[Path], Path], command: list[str], tmp_path: Path
) -> None:
    assert status(command) == 0
    again = [*moved_to(command, change(tmp_path / "images")), "train.iterations=3"]
    assert directory(again).root == directory(command).root
    assert status(again) == 0
    assert "from iteration 2" in directory(command).log.read_text()
    straight = [*again, f"paths.outputs={tmp_path}/straight"]
    assert status(straight) == 0
    generators = [directory(each).generator.read_bytes() for each in (again, straight)]
    assert generators[0] == generators[1]


# --- a run and other images: judged, compared


def evaluate(source: Path, command: list[str], **options: object) -> dict[str, float]:
    data = next(word for word in command if word.startswith("paths.data="))
    few = ["metrics.digits.is_splits=1", "metrics.digits.num_generated=20"]
    place = [word for word in command if word.startswith(("dataset.path=", "dataset.raw="))][-1:]
    overrides = [*JUDGED_BY_AVERAGES, *few, data, *place]
    return judge(source, overrides=overrides, **options).values  # type: ignore[arg-type]


def test_a_run_is_judged_against_the_images_that_it_was_trained_on(
    command: list[str], tmp_path: Path
) -> None:
    """Those of its own dataset, wherever they lie; others only where they are named."""
    assert status(command) == 0
    root = directory(command).root
    before = evaluate(root, command)
    moved = moved_to(command, move(tmp_path / "images"))
    assert evaluate(root, moved, record=True) == before
    record = directory(command).metrics.read_text()
    others = moved_to(command, write(tmp_path / "others", first=300))
    for source in (root, directory(command).generator):
        for wanted in (False, True):
            with pytest.raises(UserError, match="are not those that"):
                evaluate(source, others, record=wanted)
    assert directory(command).metrics.read_text() == record


def test_two_datasets_of_one_name_are_told_apart_by_the_one_that_is_given(
    command: list[str], tmp_path: Path
) -> None:
    """As the refusal proposes: another dataset.name makes it another run, which is judged like any."""
    assert status(command) == 0
    other = [*moved_to(command, write(tmp_path / "others", first=300)), "dataset.name=others"]
    assert status(moved_to(command, tmp_path / "others")) == WRONG_CONFIG
    assert status(other) == 0
    assert directory(other).root != directory(command).root
    values = [evaluate(directory(each).root, each) for each in (command, other)]
    assert values[0].keys() == values[1].keys()
    assert values[0] != values[1]


def test_seeds_of_other_images_are_not_averaged_and_are_no_copies(command: list[str], tmp_path: Path) -> None:
    """Also where the runs lie in folders of their own, by which they are told apart while they train."""
    others = moved_to(command, write(tmp_path / "others", first=300))
    outputs = tmp_path / "outputs"
    runs = [
        [*command, f"paths.outputs={outputs}/a"],
        [*command, f"paths.outputs={outputs}/a", "seed=1"],
        [*others, f"paths.outputs={outputs}/b"],
    ]
    for each in runs:
        assert status(each) == 0
        evaluate(directory(each).root, each, record=True)
    shutil.copytree(directory(runs[0]).root, outputs / "a copy")
    shutil.copytree(directory(runs[1]).root, outputs / "half a copy", ignore=lambda *_: ["status.json"])
    found, _ = find(outputs)
    assert sorted(run.directory.root for run in found) == sorted(directory(each).root for each in runs)
    tables = compare(found, read_scores(found)[0], None)
    assert sorted(group.seeds for table in tables for group in table.groups) == [1, 2]
    assert len({table.title for table in tables}) == len(tables) == 2
