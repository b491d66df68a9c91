"""scripts/prepare_data.py, and training on what it made: from each official layout to a finished run."""

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import official_archives
import pytest

from gan_lab import terminal
from gan_lab.data import celeba, cifar10, imagenet, stl10
from gan_lab.metrics.extractors import INCEPTION_FILE
from gan_lab.presets import CONFIGS

DATASETS = {"cifar10": cifar10, "stl10": stl10, "celeba": celeba, "imagenet": imagenet}


@pytest.fixture(scope="module")
def prepare_data() -> Callable[..., int]:
    path = CONFIGS.parent / "scripts/prepare_data.py"
    spec = importlib.util.spec_from_file_location("prepare_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: terminal.exit_status(lambda: module.main([str(one) for one in arguments]))


@pytest.mark.parametrize("name", DATASETS)
def test_from_the_official_archive_to_twenty_iterations(
    name: str,
    tmp_path: Path,
    prepare_data: Callable[..., int],
    train_py: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    data = tmp_path / "data"
    raw = tmp_path / DATASETS[name].PUBLISHED.file
    getattr(official_archives, name)(raw)
    assert prepare_data(name, "--no-verify", "--raw", raw, f"paths.data={data}") == 0
    (array,) = data.glob("*.npy")
    made = array.stat().st_mtime_ns

    # The default architecture at its full size; but ImageNet's, whose iterations take many seconds on a CPU,
    # at an eighth of its width.
    trained = train_py(
        f"dataset={name}",
        f"dataset.raw={raw}",
        "dataset.verify=false",
        "train.iterations=20",
        "train.batch_size=2",
        "train.g_batch_size=2",
        "train.log_every=5",
        *(["arch.width=0.125"] if name == "imagenet" else []),
        "metrics=none",
        "tracker=local",
        "device=cpu",
        f"paths.data={data}",
        f"paths.outputs={tmp_path}/outputs",
    )
    assert trained.returncode == 0, trained.stderr
    (status,) = (tmp_path / "outputs").rglob("status.json")
    assert json.loads(status.read_text())["iteration"] == 20
    rows = [json.loads(line) for line in (status.parent / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [5, 10, 15, 20]
    assert np.isfinite([value for row in rows for value in row.values()]).all()
    assert array.stat().st_mtime_ns == made  # training used what the script had made


def test_a_folder_by_overrides_with_awkward_names(
    tmp_path: Path, prepare_data: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "my 'own' images, 2=2"
    place.mkdir()
    (place / "a.jpg").write_bytes(official_archives.jpeg(official_archives.pictures(1, 50, 50)[0]))
    path = str(place).replace("'", "\\'")
    status = prepare_data(
        "folder", f"dataset.path='{path}'", "dataset.image_size=48", f"paths.data={tmp_path}/data"
    )
    assert status == 0
    assert "1 images of 48×48" in capsys.readouterr().out


def test_what_is_passed_over_and_damaged_is_said(
    tmp_path: Path, prepare_data: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    place, data = tmp_path / "images", f"paths.data={tmp_path}/data"
    place.mkdir()
    for number, image in enumerate(official_archives.pictures(3, 40, 40)):
        (place / f"{number}.jpg").write_bytes(official_archives.jpeg(image))
    (place / "no.png").touch()
    (place / "no.avif").touch()
    for _ in range(2):
        assert prepare_data("folder", f"dataset.path={place}", "dataset.max_damaged=0.5", data) == 0
        said = capsys.readouterr().out
        assert "3 images of 64×64, 1 damaged ones left out, passed over 1 .avif" in said


def test_a_tilde_is_the_home(
    tmp_path: Path,
    prepare_data: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    official_archives.celeba(tmp_path / "faces.zip", count=3)
    assert prepare_data("celeba", "--no-verify", "--raw", "~/faces.zip", "paths.data='~/data'") == 0
    assert str(tmp_path / "data") in capsys.readouterr().out
    assert not Path("~").exists()


def test_training_finds_what_was_prepared_without_the_archive(
    tmp_path: Path,
    prepare_data: Callable[..., int],
    train_py: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    raw = tmp_path / "some.tar.gz"
    official_archives.stl10(raw)
    assert prepare_data("stl10", "--raw", raw, "--no-verify", f"paths.data={tmp_path}/data") == 0
    raw.unlink()
    trained = train_py(
        "experiment=tiny",
        "dataset=stl10",
        "dataset.verify=false",
        "metrics=none",
        "tracker=local",
        "device=cpu",
        "train.iterations=2",
        f"paths.data={tmp_path}/data",
        f"paths.outputs={tmp_path}/out",
    )
    assert trained.returncode == 0, trained.stderr


def test_raw_with_an_awkward_name_is_found(
    tmp_path: Path, prepare_data: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "it's a=copy, (1).zip"
    official_archives.celeba(raw, count=3)
    assert prepare_data("celeba", "--no-verify", "--raw", raw, f"paths.data={tmp_path}/data") == 0
    assert "3 images of 64×64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "nonsense"),
        (["cifar10", "--raw", "nowhere.tar.gz"], "nowhere.tar.gz does not exist"),
        (["imagenet"], "get ILSVRC2012_img_train.tar from"),
        (["folder"], "dataset.path has no value"),
        (["digits", "--raw", "x"], "raw"),
        (["celeba", "dataset.prepare.resample=nearest"], "resample=nearest"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    prepare_data: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert prepare_data(*arguments, f"paths.data={tmp_path}/data") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert not list(tmp_path.glob("data/*"))


def test_inception_s_weights_are_checked(
    tmp_path: Path, prepare_data: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / INCEPTION_FILE).write_bytes(b"something else")
    assert prepare_data("inception", f"paths.data={tmp_path}") == 2
    assert INCEPTION_FILE in capsys.readouterr().err
