"""scripts/evaluate.py: a run's own metrics from its files, folders, and one sentence for what is wrong."""

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from gan_lab.config import compose, resolved
from gan_lab.data import open_array
from gan_lab.errors import UserError
from gan_lab.evaluate import _own_choices
from gan_lab.images import write_images
from gan_lab.load import load
from gan_lab.runs.directory import RunDirectory

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
    assert evaluate(finished / what, "--json", file) == 0
    verdict = json.loads(file.read_text())
    assert verdict["values"] == {name: x for name, x in last_row.items() if name.startswith("metric/")}
    assert len(verdict["values"]) == 3
    assert verdict["against"] == "digits"
    assert verdict["metrics"]["digits"]["num_generated"] == 60
    assert not verdict["recorded"]


def test_an_earlier_checkpoint_has_others(
    evaluate: Evaluate, finished: Path, last_row: dict[str, float], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    checkpoint = finished / "checkpoints" / "00000002.pt"
    assert evaluate(checkpoint, "--metrics", "fid", "--json", file) == 0
    values = json.loads(file.read_text())["values"]
    assert values.keys() == {"metric/fid_digits_60"}
    assert values["metric/fid_digits_60"] != last_row["metric/fid_digits_60"]


def test_a_folder_of_images_is_judged_as_what_made_them(
    evaluate: Evaluate, finished: Path, tmp_path: Path
) -> None:
    import torch

    trained = load(finished, torch.device("cpu"))
    write_images(tmp_path / "images", [trained.generate(0, 30, "evaluation")])
    # Over all images at once: files are judged in the order of their content.
    numbers = ("metrics.digits.kid_subset_size=30", "metrics.digits.is_splits=1")
    wanted = ("--metrics", "kid,fid,prc,is", *numbers, "--against", "digits")
    assert evaluate(finished, "--num", 30, *wanted, "--json", tmp_path / "run.json") == 0
    assert evaluate(tmp_path / "images", *wanted, "--json", tmp_path / "folder.json") == 0
    of_run, of_folder = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("run", "folder"))
    assert of_folder["values"] == pytest.approx(of_run["values"], rel=1e-3, nan_ok=True)
    assert len(of_run["values"]) == 7


def test_real_images_are_all_precise(
    evaluate: Evaluate, real_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert evaluate(real_digits, "--against", "digits", "--metrics", "prc,fid", "--json", file) == 0
    verdict = json.loads(file.read_text())
    assert verdict["metrics"]["digits"]["num_generated"] == 40
    assert verdict["values"]["metric/precision_digits_40_10k"] == 1
    assert verdict["values"]["metric/recall_digits_40_10k"] < 1
    table = capsys.readouterr().out
    assert "metric/precision_digits_40_10k  1\n" in table
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
    assert json.loads(file.read_text())["metrics"]["digits"]["num_generated"] == 30
    capsys.readouterr()
    assert "--num 41 exceeds the 40" in refused(evaluate(real_digits, "--against", "digits", "--num", 41))


def test_all_metrics_of_a_folder_take_the_same_images(
    evaluate: Evaluate, real_digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of which there are no others for FID."""
    judged = ("--against", "digits", "--metrics", "fid,is", "metrics.digits.fid_separate=true")
    assert evaluate(real_digits, *judged) == 0
    assert "metric/fid_digits_40 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "digitz"], "celeba cifar10 digits"),
        (["--metrics", "fid,lpips"], "'lpips' is none of fid, is, kid, prc"),
        (["metrics.no_such_key=1"], "no_such_key"),
        (["metrics=none"], "judges nothing"),
        (["--num", "1"], "metrics.digits.num_generated=1"),
        (["dataset.image_size=48"], "32×32 pixels and the real ones have 48×48"),
        (["--metrics", "kid", "--num", "60"], "kid_subset_size=1000 exceeds the 60"),
        (["--weights", "x.pth"], "--weights are Inception's, and metrics=digits has none"),
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
    judged = ("--against", "digits", "metrics.digits.is_splits=1")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (31, 32)).save(tmp_path / name)
    assert "--against" in refused(evaluate(tmp_path))
    assert "31×32" in refused(evaluate(tmp_path, *judged))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert "b.png, it is empty, or no image" in refused(evaluate(tmp_path, *judged))


def test_an_unwritable_file_of_figures_is_one_sentence(
    evaluate: Evaluate, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert evaluate(finished, "--num", 20, "--metrics", "is", "--json", tmp_path / "file" / "x.json") == 2
    assert "cannot be written" in capsys.readouterr().err


def composed(run: Path, dataset: Any, metrics: Any) -> dict[str, Any]:
    """What judging a run of this config composes."""
    directory = RunDirectory(run)
    directory.create()
    directory.write_config({"dataset": dataset, "metrics": metrics})
    return resolved(compose(_own_choices(directory)))


FOLDER: dict[str, Any] = {
    "name": "folder",
    "path": "/my images/of cats, 'mine' = {é}",
    "image_size": 48,
    "max_damaged": 0.5,
}


def test_the_dataset_and_protocols_of_a_run_are_composed_anew_with_its_own_values(tmp_path: Path) -> None:
    prepare = {"_target_": "os.system", "path": "/elsewhere", "resample": "lanczos"}
    numbers = {"num_generated": 77, "num_real": None, "measure": ["fid", "kid"], "every": 3}
    metrics = {
        "paper": {
            "_target_": "os.system",
            **numbers,
            "extractor": {"_target_": "os.system", "weights": "/w"},
        },
        "fast": {"num_generated": 33, "extractor": {"precision": "bf16"}},
    }
    config = composed(tmp_path, {**FOLDER, "prepare": prepare}, metrics)
    assert {key: config["dataset"][key] for key in FOLDER} == FOLDER
    made = {"_target_": "gan_lab.data.folder.prepare", "path": FOLDER["path"], "resample": "lanczos"}
    assert config["dataset"]["prepare"].items() >= made.items()
    assert config["metrics"].keys() == {"paper", "fast"}
    paper, fast = config["metrics"]["paper"], config["metrics"]["fast"]
    assert paper.items() >= numbers.items()
    assert (fast["num_generated"], fast["extractor"]["precision"]) == (33, "bf16")
    assert paper["_target_"] == fast["_target_"] == "gan_lab.metrics.evaluator"
    assert paper["extractor"]["_target_"] == "gan_lab.metrics.extractors.inception"
    assert paper["extractor"]["weights"] == "/w"


def test_keys_that_a_user_added_to_a_dataset_are_no_obstacle(tmp_path: Path) -> None:
    prepare = {"_target_": "gan_lab.data.folder.prepare", "path": "/elsewhere"}
    config = composed(tmp_path, {**FOLDER, "prepare": prepare, "note": "mine", "more": {"a": 1}}, {})
    assert config["dataset"].items() >= {**FOLDER, "note": "mine"}.items()


PREPARE: dict[str, Any] = {"prepare": {}}
CALL = "${oc.create:{_target_:os.mkdir,path:MARKER}}"


@pytest.mark.parametrize(
    ("dataset", "metrics"),
    [
        (FOLDER | PREPARE | {"path": CALL}, {}),
        (FOLDER | {"prepare": {"resample": CALL}}, {}),
        (FOLDER | PREPARE, {"digits": {"num_real": CALL}}),
        (FOLDER | PREPARE, {"digits": {"measure": ["fid", CALL]}}),
        (FOLDER | PREPARE, {"inception": {"extractor": {"weights": CALL}}}),
        (FOLDER | PREPARE | {"name": "../../evil"}, {}),
        (FOLDER | PREPARE | {"name": CALL}, {}),
        (FOLDER | PREPARE, {"../../evil": {}}),
        (FOLDER | PREPARE, {"digits],hydra/launcher=[evil": {}}),
    ],
)
def test_a_runs_config_chooses_no_code_and_no_file_elsewhere(
    tmp_path: Path, dataset: dict[str, Any], metrics: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"not resolved|is no name"):
        composed(tmp_path, dataset, metrics)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: config.pop("dataset"),
        lambda config: config.update(dataset=5),
        lambda config: config["dataset"].pop("name"),
        lambda config: config["dataset"].update(name=5),
        lambda config: config["dataset"].pop("prepare"),
        lambda config: config["dataset"].update(prepare=[1]),
        lambda config: config["dataset"].update({5: 5}),
        lambda config: config.update(metrics=["digits"]),
        lambda config: config.update(metrics={"digits": 5}),
        lambda config: config.update(metrics={"digits": None}),
        lambda config: config["metrics"]["digits"].update(num_real=datetime.date(2020, 1, 1)),
    ],
)
def test_a_spoilt_config_is_one_sentence(
    evaluate: Evaluate, finished_copy: Path, refused: Refused, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    config = yaml.safe_load((finished_copy / "config.yaml").read_text())
    spoil(config)
    (finished_copy / "config.yaml").write_text(yaml.safe_dump(config))
    refused(evaluate(finished_copy))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Thirty images of 40×40 pixels, which a dataset of 32×32 has to resample."""
    folder = tmp_path_factory.mktemp("photographs") / "images"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (30, 40, 40, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_a_run_whose_images_moved_is_judged_where_they_are_as_it_was(
    evaluate: Evaluate,
    train: Callable[..., Path],
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By its own protocol against images prepared in its own way; elsewhere only if they are named."""
    judged = ["metrics=digits", "metrics.digits.datasets=null", "metrics.digits.num_real=20"]
    images = shutil.copytree(photographs, tmp_path / "images")
    places = [f"dataset.path={images}", "dataset.image_size=32", f"paths.data={tmp_path}/data"]
    folder = ["dataset=folder", *places, "dataset.prepare.resample=lanczos", "arch.width=0.0625"]
    run = train(tmp_path / "outputs", *folder, *judged)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    recorded = {name: value for name, value in last.items() if name.startswith("metric/")}
    assert recorded.keys() == {
        "metric/fid_digits_60_20",
        *(f"metric/is_digits_60_{kind}" for kind in ("mean", "std")),
    }

    images.rename(tmp_path / "moved")
    file = tmp_path / "figures.json"
    moved, against = f"dataset.path={tmp_path}/moved", ["--against", "folder", "dataset.image_size=32"]
    assert evaluate(run, moved, "--json", file) == 0
    assert json.loads(file.read_text())["values"] == recorded
    assert evaluate(run, *against, moved, *judged, "--num", 60, "--json", file) == 0
    values = json.loads(file.read_text())["values"]
    assert values.keys() == recorded.keys()
    assert values["metric/fid_digits_60_20"] != recorded["metric/fid_digits_60_20"]  # bicubic, by default
    capsys.readouterr()
    assert evaluate(run) == 2
    assert str(images) in capsys.readouterr().err
