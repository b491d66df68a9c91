"""scripts/evaluate.py: a run's own metrics from its files, folders, and one sentence for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gan_lab.config import compose, resolved
from gan_lab.data import open_array
from gan_lab.evaluate import _own_dataset
from gan_lab.load import load
from gan_lab.training.samples import write_images

Main = Callable[[list[str]], int]
Refused = Callable[[int], str]
Evaluate = Callable[..., int]


@pytest.fixture
def evaluate(script: Callable[[str], Main], data: Path) -> Evaluate:
    main = script("evaluate")
    own = ("device=cpu", f"paths.data={data}")
    return lambda *arguments: main([str(argument) for argument in (*arguments, *own)])


@pytest.fixture(scope="session")
def real_digits(tmp_path_factory: pytest.TempPathFactory, data: Path, finished: Path) -> Path:
    """The first 40 real digits as files, some in a folder within the folder."""
    import torch

    folder = tmp_path_factory.mktemp("real") / "digits"
    write_images(folder, [torch.from_numpy(open_array(data / "digits-32.npy").images[:40].copy())])
    (folder / "nested").mkdir()
    for file in sorted(folder.glob("*.png"))[:10]:
        file.rename(folder / "nested" / file.name)
    return folder


@pytest.mark.parametrize("what", [".", "generator.safetensors", "checkpoints/00000003.pt"])
def test_a_run_has_the_metrics_that_it_recorded(
    evaluate: Evaluate, finished: Path, last_row: dict[str, float], tmp_path: Path, what: str
) -> None:
    file = tmp_path / "figures.json"
    assert evaluate(finished / what, "--num", 60, "--json", file) == 0
    verdict = json.loads(file.read_text())
    assert verdict["values"] == {name: x for name, x in last_row.items() if name.startswith("metric/")}
    assert len(verdict["values"]) == 3
    assert verdict["against"] == "digits"
    assert verdict["metrics"]["num_generated"] == 60


def test_an_earlier_checkpoint_has_others(
    evaluate: Evaluate, finished: Path, last_row: dict[str, float], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    checkpoint = finished / "checkpoints" / "00000002.pt"
    assert evaluate(checkpoint, "--num", 60, "--metrics", "fid", "--json", file) == 0
    values = json.loads(file.read_text())["values"]
    assert values.keys() == {"metric/fid_digits"}
    assert values["metric/fid_digits"] != last_row["metric/fid_digits"]


def test_a_folder_of_images_is_judged_as_what_made_them(
    evaluate: Evaluate, finished: Path, tmp_path: Path
) -> None:
    import torch

    trained = load(finished, torch.device("cpu"))
    write_images(tmp_path / "images", [trained.generate(0, 30, "evaluation")])
    wanted = ("--metrics", "kid,fid,prc,is", "metrics.kid_subset_size=20", "--against", "digits")
    assert evaluate(finished, "--num", 30, *wanted, "--json", tmp_path / "run.json") == 0
    assert evaluate(tmp_path / "images", *wanted, "--json", tmp_path / "folder.json") == 0
    of_run, of_folder = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("run", "folder"))
    assert of_folder["values"] == of_run["values"]
    assert len(of_run["values"]) == 7


def test_real_images_are_all_precise(
    evaluate: Evaluate, real_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert evaluate(real_digits, "--against", "digits", "--metrics", "prc,fid", "--json", file) == 0
    verdict = json.loads(file.read_text())
    assert verdict["metrics"]["num_generated"] == 40
    assert verdict["values"]["metric/precision_digits"] == 1
    assert verdict["values"]["metric/recall_digits"] < 1
    table = capsys.readouterr().out
    assert "metric/precision_digits  1\n" in table
    assert str(real_digits) in table


def test_num_takes_the_first_images_of_a_folder(
    evaluate: Evaluate,
    real_digits: Path,
    tmp_path: Path,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "figures.json"
    assert evaluate(real_digits, "--against", "digits", "--num", 30, "--metrics", "fid", "--json", file) == 0
    assert json.loads(file.read_text())["metrics"]["num_generated"] == 30
    capsys.readouterr()
    assert "--num 41 exceeds the 40" in refused(evaluate(real_digits, "--against", "digits", "--num", 41))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "digitz"], "celeba cifar10 digits"),
        (["--metrics", "fid,lpips"], "'lpips' is none of fid, is, kid, prc"),
        (["metrics.no_such_key=1"], "no_such_key"),
        (["metrics=none"], "judges nothing"),
        (["--num", "1"], "metrics.num_generated=1"),
        (["dataset.image_size=48"], "32×32 pixels and the real ones have 48×48"),
        (["--metrics", "kid", "--num", "60"], "kid_subset_size=1000 exceeds the 60"),
        (["--weights", "x.pth"], "Inception alone"),
        (["metrics=inception", "--weights", "nowhere.pth"], "nowhere.pth cannot be read"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    evaluate: Evaluate, finished: Path, refused: Refused, arguments: list[str], message: str
) -> None:
    assert message in refused(evaluate(finished, *arguments))


def test_wrong_sources_are_one_sentence(evaluate: Evaluate, tmp_path: Path, refused: Refused) -> None:
    assert "does not exist" in refused(evaluate(tmp_path / "nothing"))
    assert "neither a run nor images" in refused(evaluate(tmp_path, "--against", "digits"))
    judged = ("--against", "digits", "metrics.is_splits=1")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (31, 32)).save(tmp_path / name)
    assert "--against" in refused(evaluate(tmp_path))
    assert "31×32" in refused(evaluate(tmp_path, *judged))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert "b.png cannot be read" in refused(evaluate(tmp_path, *judged))


def test_an_unwritable_file_of_figures_is_one_sentence(
    evaluate: Evaluate, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert evaluate(finished, "--num", 20, "--metrics", "is", "--json", tmp_path / "file" / "x.json") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_dataset_of_a_run_is_composed_anew_with_its_own_values() -> None:
    dataset = {
        "name": "folder",
        "path": "/my images/of cats, 'mine' = {é}",
        "image_size": 48,
        "max_damaged": 0.5,
    }
    prepare = {"_target_": "os.system"}
    config = resolved(compose(_own_dataset({"dataset": {**dataset, "prepare": prepare}})))
    assert {key: config["dataset"][key] for key in dataset} == dataset
    assert config["dataset"]["prepare"]["_target_"] == "gan_lab.data.folder.prepare"
    assert config["dataset"]["prepare"]["path"] == dataset["path"]
