"""`python train.py` as it is typed: help, mistakes, sweeps and signals."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeps import stopping

from gan_lab import sweep
from gan_lab.config import compose, load, resolved
from gan_lab.presets import CONFIGS
from gan_lab.run import run
from gan_lab.runs.directory import RunDirectory
from gan_lab.sweep.arguments import misses_a_choice, misspelt, unreadable

ROOT = Path(__file__).resolve().parent.parent
Train = Callable[..., subprocess.CompletedProcess[str]]
Recorded = Callable[[Path], list[dict[str, float]]]

AXES = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir() and folder.name != "hydra")


def written(tmp_path: Path) -> list[str]:
    """All that a command of `train_py` left behind."""
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_help_names_every_axis_and_choice_and_loads_nothing_heavy(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "--help"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    listed = dict(re.findall(r"^(\w+): (.+)$", answer.stdout, re.M))
    for folder in CONFIGS.iterdir():
        if folder.is_dir() and folder.name != "hydra":
            assert listed[folder.name].split(", ") == sorted(path.stem for path in folder.glob("*.yaml"))
    imported = set(re.findall(r"\|\s+(\w+)$", answer.stderr, re.M))
    assert "hydra" in imported
    assert not imported & {"torch", "numpy", "wandb", "sklearn", "PIL", "pydantic"}
    assert written(tmp_path) == []


def test_help_speaks_only_of_options_that_exist(train_py: Train) -> None:
    text = train_py("--help").stdout
    shown = re.findall(r"^  ([\w.]+=\S+) ", text, re.M)
    assert len(shown) > 10
    compose(shown)
    sweeps = re.findall(r"train\.py -m ((?:\w\S*=\S+ )+)", text)
    assert sweeps
    for line in sweeps:
        for override in line.split():
            key, values = override.split("=")
            assert all(compose([f"{key}={value}"]) for value in values.split(","))


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ("norm=spectral", sorted(path.stem for path in (CONFIGS / "norm").glob("*.yaml"))),
        ("norm.scal=2", ["norm.scal", "take norm.scale"]),
        ("nrom=sn", ["nrom", "take norm"]),
    ],
)
def test_a_misspelt_option_is_answered_by_hydra(
    train_py: Train, tmp_path: Path, wrong: str, answer: list[str]
) -> None:
    done = train_py(wrong)
    assert done.returncode == 2
    assert all(re.search(rf"\b{re.escape(word)}\b", done.stderr) for word in answer)
    assert "Traceback" not in done.stdout + done.stderr
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.iteration=5", "train.iterations"),
        ("norm.scal=1,2", "norm.scale"),
        ("nrom=sn", "norm"),
        ("iterations=5", "train.iterations"),
        ("norm.n_power_iteration=2", "norm.n_power_iterations"),
        ("train.n_dis=2", "optimizer.n_dis"),
        ("trian.iteration=2", "train.iterations"),
    ],
)
def test_a_misspelt_key_is_told_the_one_most_like_it(typed: str, meant: str) -> None:
    sentence = misspelt(["-m", "seed=0,1", "norm=bssn,sn", typed])
    assert sentence == f"{typed.partition('=')[0]} is no key of the config: take {meant}"


def test_keys_that_the_config_has_are_not_called_misspelt() -> None:
    words = [
        "norm=sn",
        "norm.scale=2",
        "+train.x=1",
        "~tracker",
        "hydra.verbose=true",
        "penalty=r1",
        "penalty.every=2",
    ]
    assert misspelt(words) is None
    assert misspelt(["norm=spectral"]) is None  # Hydra lists the choices


@pytest.mark.parametrize("key", ["qqq", "train.qqq", "qqq.qqq"])
def test_a_key_that_is_like_none_is_told_where_to_look(key: str) -> None:
    assert f"{key} is no key of the config: see" in str(misspelt([f"{key}=1"]))


def test_a_wrong_value_is_one_sentence_and_leaves_no_trace(train_py: Train, tmp_path: Path) -> None:
    done = train_py("norm.scale=-1", f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs")
    assert done.returncode == 2
    assert re.fullmatch(r"error: norm\.scale=-1 .*\n", done.stderr)
    assert done.stdout == ""
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("dataset.path=/data/pics (1)", "/data/pics (1)"),
        ("dataset.path=/data/Büro", "/data/Büro"),
        ('dataset.path=it\'s, "here"\\', 'it\'s, "here"\\'),
        ("dataset.path=~/[pics", str(Path.home() / "[pics")),
        ("dataset.path=a=b", "a=b"),
    ],
)
def test_a_value_that_hydra_cannot_read_is_answered_by_how_to_write_it(
    argument: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1", argument])
    assert sweep.exit_status(lambda: pytest.fail("Hydra would refuse it in words of its grammar")) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the argument {argument} cannot be read: ")
    assert error.count("\n") == 1
    (typed,) = shlex.split(error.partition(", as in ")[2])
    assert compose(["dataset=folder", typed]).dataset.path == meant


@pytest.mark.parametrize(
    ("argument", "answer"),
    [("norm", "has no ="), ("nörm=sn", "key"), ("a b=sn", "key")],
)
def test_an_argument_without_a_key_is_one_sentence(argument: str, answer: str) -> None:
    sentence = unreadable(["-m", "seed=0,1", argument])
    assert sentence
    assert argument in sentence
    assert answer in sentence


def test_words_that_hydra_can_read_are_left_to_it() -> None:
    words = ["norm=none,sn", "+a.b=[1,{c: d}]", "~arch", "a='x (1)'", "seed=range(3)", "x=${y}", "e="]
    assert unreadable(["-m", *words, "--config-dir", "a (1)"]) is None


@pytest.mark.parametrize("typed", ["{}=null", "+{}=Null", "{}=null,other", "{}="])
@pytest.mark.parametrize("axis", AXES)
def test_an_axis_set_to_null_is_told_what_to_choose(axis: str, typed: str) -> None:
    sentence = misses_a_choice(["-m", "seed=0,1", typed.format(axis)], AXES)
    assert sentence
    assert sentence.startswith(f"{typed.format(axis)} chooses nothing")
    proposed = sentence.partition("such as ")[2]
    if axis == "experiment":
        assert "leaving it out" in sentence
        return
    compose([proposed])
    assert misses_a_choice([proposed, f"{axis}.key=null", "seed=null"], AXES) is None


@pytest.mark.parametrize("typed", ["experiment=paper/sweep/{}", "+experiment=tiny,paper/sweep/{}"])
@pytest.mark.parametrize("sweep", [path.stem for path in (CONFIGS / "experiment/paper/sweep").iterdir()])
def test_a_part_of_presets_is_told_which_have_it(sweep: str, typed: str) -> None:
    sentence = misses_a_choice(["-m", typed.format(sweep)], AXES)
    assert sentence
    assert sentence.startswith(f"{typed.format(sweep)} is no experiment without a dataset")
    whole = sentence.partition("such as ")[2]
    assert whole.endswith(f"_{sweep}")
    compose([f"experiment={whole}"])
    assert misses_a_choice([f"experiment={whole}"], AXES) is None


def test_a_world_size_that_is_no_number_is_one_sentence(
    train_py: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "auto")
    done = train_py("norm=sn")
    assert done.returncode == 2
    assert re.fullmatch(r"error: WORLD_SIZE=auto .*\n", done.stderr)
    assert written(tmp_path) == []


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_no_status_and_no_file(
    closed: str, tiny: list[str], tmp_path: Path
) -> None:
    def status(*overrides: str) -> int:
        command = shlex.join([sys.executable, str(ROOT / "train.py"), *overrides])
        return subprocess.run(["sh", "-c", f"{command} {closed}"], cwd=tmp_path).returncode

    for wrong in ("norm.scale=-1", "norm=spectral", "norm"):
        assert status(wrong) == 2
    overrides = [*tiny, "train.iterations=10"]
    assert status(*overrides) == 0
    directory = load(compose(overrides)).run_directory
    assert json.loads((directory / "lock").read_text() or "{}") == {}
    assert RunDirectory(directory).read_status()["state"] == "finished"


def test_a_reader_that_has_left_hears_no_traceback(tmp_path: Path) -> None:
    command = f"{shlex.join([sys.executable, str(ROOT / 'train.py'), '--help'])} | true"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "mode",
    [["hydra.run.dir=elsewhere"], ["-m", "hydra.sweep.subdir=${hydra.job.override_dirname}/${norm.name}"]],
)
def test_a_changed_directory_changes_no_run(mode: list[str], tiny: list[str], tmp_path: Path) -> None:
    """With hydra.job.chdir a relative path still means the directory where the command was typed."""
    data = next(word for word in tiny if word.startswith("paths.data=")).partition("=")[2]
    (tmp_path / "my data").symlink_to(data)
    overrides = [*tiny[:-2], "train.iterations=10", "paths.data='my data'", "paths.outputs=out"]
    for chdir, answer in (("true", "finished after"), ("false", "already finished")):
        command = [sys.executable, str(ROOT / "train.py"), *mode, *overrides]
        done = subprocess.run(
            [*command, f"hydra.job.chdir={chdir}"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert answer in done.stdout
    status = tmp_path / load(compose(overrides)).run_directory / "status.json"
    assert list(tmp_path.rglob("status.json")) == [status]


def test_the_composed_config_is_printed(train_py: Train) -> None:
    overrides = ["norm=ssn", "seed=3", "optimizer.d_lr=3e-4", "experiment=tiny"]
    done = train_py(*overrides, "--cfg", "job", "--resolve")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout) == resolved(compose(overrides))


# --- a sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Any, list[str], Path]:
    """Two norms and two seeds, with steps so long that only a norm can bear them."""
    folder = tmp_path_factory.mktemp("sweep")
    common = ["experiment=tiny", "metrics=none", "device=cpu", "train.iterations=10", "optimizer.d_lr=3"]
    common += ["tracker.mode=offline", f"paths.data={data}", f"paths.outputs={folder}/outputs"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", "norm=none,sn", "seed=0,1", *common]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done, common, folder


def directories(common: list[str], norm: str) -> list[Path]:
    return [load(compose([*common, f"norm={norm}", f"seed={seed}"])).run_directory for seed in (0, 1)]


def test_a_sweep_is_a_run_for_each_pair_where_the_single_command_would_lie(
    swept: tuple[Any, list[str], Path],
) -> None:
    _, common, folder = swept
    expected = [*directories(common, "none"), *directories(common, "sn")]
    assert len(set(expected)) == 4
    found = (folder / "outputs").rglob("status.json")
    assert {path.parent for path in found} == set(expected)


def test_a_diverged_run_is_a_result_and_the_sweep_continues(swept: tuple[Any, list[str], Path]) -> None:
    done, common, _ = swept
    states = [RunDirectory(path).read_status()["state"] for path in directories(common, "none")]
    assert states == ["diverged", "diverged"]
    states = [RunDirectory(path).read_status()["state"] for path in directories(common, "sn")]
    assert states == ["finished", "finished"]
    assert done.returncode == 3
    assert "Traceback" not in done.stdout + done.stderr


def test_each_run_of_a_sweep_is_its_own_wandb_run(
    swept: tuple[Any, list[str], Path], wandb_records: Callable[[Path], list[Any]], recorded: Recorded
) -> None:
    _, common, _ = swept
    ids, groups = set(), []
    for norm, state in (("none", "diverged"), ("sn", "finished")):
        for directory in directories(common, norm):
            (path,) = directory.glob("wandb/offline-run-*/*.wandb")
            records = wandb_records(path)
            by_kind: dict[str, list[Any]] = {}
            for record in records:
                kind = record.WhichOneof("record_type")
                by_kind.setdefault(kind, []).append(getattr(record, kind))
            (started,), (ended,) = by_kind["run"], by_kind["exit"]
            ids.add(started.run_id)
            groups.append(started.run_group)
            assert {"digits", "dcgan", norm} <= set(started.tags)
            assert started.display_name.endswith(f"digits/dcgan/{norm}/{directory.name}")
            assert ended.exit_code == (0 if state == "finished" else 1)
            logged = [*recorded(directory), *directory.glob("samples/*.png")]
            assert len(by_kind.get("history", [])) == len(logged)
            images = list((path.parent / "files" / "media" / "images").glob("*.png"))
            grids = list((directory / "samples").glob("*.png"))
            assert len(images) == len(grids) + bool(grids)  # the real images, next to the first of them
    assert len(ids) == 4
    assert groups[0] == groups[1] != groups[2] == groups[3]  # the seeds of one setting together


def test_a_sweep_leaves_nothing_where_it_was_started(swept: tuple[Any, list[str], Path]) -> None:
    _, _, folder = swept
    assert [path.name for path in folder.iterdir()] == ["outputs"]


# --- signals


def test_sigterm_ends_a_sweep_and_the_interrupted_run_resumes_bit_for_bit(
    tiny: list[str], tmp_path: Path, recorded: Recorded
) -> None:
    overrides = [*tiny, "train.iterations=50", "probes.every=50"]
    overrides += ["train.sample_every=25", "train.checkpoint_every=1000"]
    seeds = [[*overrides, f"seed={seed}"] for seed in (0, 1)]
    first, second = (load(compose(seed)).run_directory for seed in seeds)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", "seed=0,1", *overrides, *stopping.options("Hold")],
        env=stopping.environment("/seed0", 20),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (first / stopping.HELD).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate()
    assert process.returncode == 4, error
    assert "Traceback" not in out + error
    stopped = RunDirectory(first).read_status()
    assert stopped["state"] == "interrupted"
    assert stopped["iteration"] == 20
    assert "SIGTERM" in stopped["reason"]
    assert not second.exists()  # the rest of the sweep is not started

    undisturbed = [*seeds[0], f"paths.outputs={tmp_path}/undisturbed"]
    for command in (seeds[0], undisturbed):
        assert run(compose(command)).exit_status == 0
    expected = load(compose(undisturbed)).run_directory
    assert [row["iteration"] for row in recorded(first)] == list(range(5, 51, 5))
    assert recorded(first) == recorded(expected)
    for name in ("generator.safetensors", "samples/00000025.png", "samples/00000050.png"):
        assert (first / name).read_bytes() == (expected / name).read_bytes(), name
