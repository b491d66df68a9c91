"""`python train.py` as it is typed: help, mistakes, sweeps and signals."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gan_lab.config import CONFIGS, compose, resolved, run_directory
from gan_lab.run import run
from gan_lab.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
Train = Callable[..., subprocess.CompletedProcess[str]]
Recorded = Callable[[Path], list[dict[str, float]]]


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
    assert not imported & {"torch", "numpy", "wandb", "sklearn", "PIL"}
    assert written(tmp_path) == []


def test_help_speaks_only_of_options_that_exist(train_py: Train) -> None:
    text = train_py("--help").stdout
    shown = re.findall(r"^  ([\w.]+=\S+) ", text, re.M)
    assert len(shown) > 10
    compose(shown)
    sweeps = re.findall(r"python train\.py -m ((?:\w\S*=\S+ )+)", text)
    assert sweeps
    for sweep in sweeps:
        for override in sweep.split():
            key, values = override.split("=")
            assert all(compose([f"{key}={value}"]) for value in values.split(","))


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ("norm=spectral", sorted(path.stem for path in (CONFIGS / "norm").glob("*.yaml"))),
        ("norm.scal=2", ["norm.scal", "scal"]),
        ("nrom=sn", ["nrom"]),
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


def test_a_wrong_value_is_one_sentence_and_leaves_no_trace(train_py: Train, tmp_path: Path) -> None:
    done = train_py("norm.scale=-1", f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs")
    assert done.returncode == 2
    assert re.fullmatch(r"error: norm\.scale=-1 .*\n", done.stderr)
    assert done.stdout == ""
    assert written(tmp_path) == []


def test_the_composed_config_is_printed(train_py: Train) -> None:
    overrides = ["norm=ssn", "seed=3", "optimizer.d_lr=3e-4", "experiment=tiny"]
    done = train_py(*overrides, "--cfg", "job", "--resolve")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout) == resolved(compose(overrides))


# --- a sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Any, list[str], Path]:
    """Two norms and two seeds, with steps so long that only a norm can bear them."""
    folder = tmp_path_factory.mktemp("sweep")
    common = ["experiment=tiny", "metrics=none", "device=cpu", "train.iterations=10", "optimizer.d_lr=3"]
    common += ["tracker.mode=offline", f"paths.data={data}", f"paths.outputs={folder}/outputs"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", "norm=none,sn", "seed=0,1", *common]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done, common, folder


def directories(common: list[str], norm: str) -> list[Path]:
    return [run_directory(resolved(compose([*common, f"norm={norm}", f"seed={seed}"]))) for seed in (0, 1)]


def test_a_sweep_is_a_run_for_each_pair_where_the_single_command_would_lie(
    sweep: tuple[Any, list[str], Path],
) -> None:
    _, common, folder = sweep
    expected = [*directories(common, "none"), *directories(common, "sn")]
    assert len(set(expected)) == 4
    found = (folder / "outputs").rglob("status.json")
    assert {path.parent for path in found} == set(expected)


def test_a_diverged_run_is_a_result_and_the_sweep_goes_on(sweep: tuple[Any, list[str], Path]) -> None:
    done, common, _ = sweep
    states = [RunDirectory(path).read_status()["state"] for path in directories(common, "none")]
    assert states == ["diverged", "diverged"]
    states = [RunDirectory(path).read_status()["state"] for path in directories(common, "sn")]
    assert states == ["finished", "finished"]
    assert done.returncode == 3
    assert "Traceback" not in done.stdout + done.stderr


def test_each_run_of_a_sweep_is_its_own_wandb_run(
    sweep: tuple[Any, list[str], Path], wandb_records: Callable[[Path], list[Any]], recorded: Recorded
) -> None:
    _, common, _ = sweep
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
            assert len(by_kind.get("history", [])) == len({row["iteration"] for row in recorded(directory)})
            images = list((path.parent / "files" / "media" / "images").glob("*.png"))
            assert len(images) == len(list((directory / "samples").glob("*.png")))
    assert len(ids) == 4
    assert groups[0] == groups[1] != groups[2] == groups[3]  # the seeds of one setting together


def test_a_sweep_leaves_nothing_where_it_was_started(sweep: tuple[Any, list[str], Path]) -> None:
    _, _, folder = sweep
    assert [path.name for path in folder.iterdir()] == ["outputs"]


# --- signals


def test_sigterm_ends_a_sweep_and_the_interrupted_run_goes_on_bit_for_bit(
    tiny: list[str],
    tmp_path: Path,
    train_py: Train,
    recorded: Recorded,
    sigterm_at: Callable[[int, int], list[str]],
) -> None:
    overrides = [*tiny, "train.iterations=50", "probes.every=50"]
    overrides += ["train.sample_every=25", "train.checkpoint_every=1000"]
    seeds = [[*overrides, f"seed={seed}"] for seed in (0, 1)]
    first, second = (run_directory(resolved(compose(seed))) for seed in seeds)
    done = train_py("-m", "seed=0,1", *overrides, *sigterm_at(0, 20))
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    stopped = RunDirectory(first).read_status()
    assert (stopped["state"], stopped["iteration"]) == ("interrupted", 20)
    assert "SIGTERM" in stopped["reason"]
    assert not second.exists()  # the rest of the sweep is not started

    undisturbed = [*seeds[0], f"paths.outputs={tmp_path}/undisturbed"]
    for command in (seeds[0], undisturbed):
        assert run(compose(command)).exit_status == 0
    expected = run_directory(resolved(compose(undisturbed)))
    assert [row["iteration"] for row in recorded(first)] == list(range(5, 51, 5))
    assert recorded(first) == recorded(expected)
    for name in ("generator.safetensors", "samples/00000025.png", "samples/00000050.png"):
        assert (first / name).read_bytes() == (expected / name).read_bytes(), name
