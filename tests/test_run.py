"""Whole runs in this process: what lies in the directory afterwards, and what the same command does again."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from gan_lab.build import build_networks
from gan_lab.config import compose, load
from gan_lab.run import Outcome, run
from gan_lab.runs.lock import RunLock
from gan_lab.tracking.base import RunInfo
from gan_lab.training.gan import Gan, IterationInputs
from gan_lab.training.samples import generate

Recorded = Callable[[Path], list[dict[str, float]]]


def go(overrides: list[str]) -> tuple[Outcome, Path]:
    """Run it; returns how it ended, and its directory."""
    cfg = compose(overrides)
    return run(cfg), load(cfg).run_directory


def status(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "status.json").read_text())


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Each file's modification time and bytes."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def same_result(one: Path, other: Path, recorded: Recorded) -> bool:
    names = ["generator.safetensors", *(f"samples/{path.name}" for path in one.glob("samples/*.png"))]
    same_files = all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    return recorded(one) == recorded(other) and same_files


# --- a finished run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[list[str], Outcome, Path]:
    """The tiny experiment as it is: 30 iterations with metrics on digits. Nobody changes its directory."""
    outputs = tmp_path_factory.mktemp("finished")
    overrides = ["experiment=tiny", "tracker=local", "device=cpu", "seed=4"]
    overrides += [f"paths.data={data}", f"paths.outputs={outputs}"]
    return overrides, *go(overrides)


def test_the_directory_holds_what_tools_rely_on(finished: tuple[list[str], Outcome, Path]) -> None:
    _, outcome, directory = finished
    assert outcome.exit_status == 0
    names = {path.name for path in directory.iterdir()}
    assert names >= {
        "config.yaml",
        "status.json",
        "metrics.jsonl",
        "samples",
        "checkpoints",
        "generator.safetensors",
        "discriminator.safetensors",
        "train.log",
    }
    assert [path.name for path in sorted((directory / "samples").iterdir())] == [
        "00000010.png",
        "00000020.png",
        "00000030.png",
    ]
    assert [path.name for path in sorted((directory / "checkpoints").glob("*.pt"))] == [
        "00000020.pt",
        "00000030.pt",
    ]
    assert (directory / "train.log").stat().st_size > 0
    leftovers = [path for path in directory.rglob("*") if path.suffix == ".tmp"]
    assert leftovers == []


def test_the_status_says_that_it_is_finished(finished: tuple[list[str], Outcome, Path]) -> None:
    found = status(finished[2])
    assert (found["state"], found["iteration"], found["reason"], found["seed"]) == ("finished", 30, "", 4)
    assert found["device"] == "cpu"
    assert found["torch"] == torch.__version__
    assert {"python", "gan_lab", "git_revision"} <= found.keys()


def test_the_config_is_the_resolved_one(finished: tuple[list[str], Outcome, Path]) -> None:
    overrides, _, directory = finished
    written = yaml.safe_load((directory / "config.yaml").read_text())
    written.pop("format")
    assert written == load(compose(overrides)).plain
    assert "${" not in (directory / "config.yaml").read_text()


def test_the_metrics_have_the_names_that_tools_rely_on(finished: tuple[list[str], Outcome, Path]) -> None:
    _, outcome, directory = finished
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [5, 10, 15, 20, 25, 30]
    layers = [name for name in rows[0] if name.startswith("sigma/")]
    assert len(layers) == 8  # seven convolutions and a linear layer
    always = {"loss/d", "loss/d_real", "loss/d_fake", "loss/g", "score/real", "score/fake"}
    always |= {"grad_norm/d", "grad_norm/g", "speed/images_per_s", "speed/step_ms", "memory/peak_mb"}
    always |= {f"slope/{kind}_{part}" for kind in ("real", "fake") for part in ("mean", "min", "max")}
    for layer in (name.removeprefix("sigma/") for name in layers):
        per_layer = ("sigma", "sigma_out", "sigma_in", "weight_var", "grad_norm/d")
        always |= {f"{name}/{layer}" for name in per_layer}
    judged = {"metric/fid_digits_300", "metric/is_digits_300_mean", "metric/is_digits_300_std"}
    for row in rows:
        assert row.keys() >= always | (judged if row["iteration"] in (15, 30) else set())
        assert all(math.isfinite(value) for value in row.values())
    assert not any(name in row for row in rows for name in ("metric/fid", "metric/is_mean"))
    assert outcome.fid == rows[-1]["metric/fid_digits_300"]


def test_the_written_generator_makes_the_last_grid(finished: tuple[list[str], Outcome, Path]) -> None:
    overrides, _, directory = finished
    config = load(compose(overrides))
    generator, _ = build_networks(config, torch.device("cpu"))
    generator.load_state_dict(load_file(directory / "generator.safetensors"))
    images = generate(generator, config.arch.latent_dim, config.seed, "samples", 0, 100)
    with Image.open(directory / "samples" / "00000030.png") as image:
        grid = np.asarray(image).transpose(2, 0, 1)
    frame = 2
    assert grid.shape == (3, 10 * 34 + frame, 10 * 34 + frame)
    for number in (0, 9, 37, 99):
        top, left = (frame + 34 * place for place in divmod(number, 10))
        assert np.array_equal(grid[:, top : top + 32, left : left + 32], images[number].numpy())


def test_a_finished_run_is_not_run_again(
    finished: tuple[list[str], Outcome, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, outcome, directory = finished
    before = contents(directory)
    # Intervals, the tracker and the device do not make it another run.
    again, same = go([*overrides, "train.log_every=1", "device=auto", "tracker=tensorboard"])
    assert (again, same) == (outcome, directory)
    assert contents(directory) == before
    assert "already finished at iteration 30" in capsys.readouterr().out


def test_a_second_run_is_the_same_bit_for_bit(
    finished: tuple[list[str], Outcome, Path], tmp_path: Path, recorded: Recorded
) -> None:
    overrides, outcome, directory = finished
    torch.manual_seed(99)
    again, elsewhere = go([*overrides, f"paths.outputs={tmp_path}"])
    assert again == outcome
    assert same_result(elsewhere, directory, recorded)


def test_the_summary_shows_the_result(
    finished: tuple[list[str], Outcome, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, outcome, directory = finished
    go(overrides)
    text = capsys.readouterr().out
    assert re.search(rf"metric/fid_digits_300 +last {outcome.fid:.3f}", text)
    assert f"{directory}/samples/00000030.png" in text
    assert len(re.findall(r"\n  \S*python ", text)) == 3


# --- the same command again


def test_another_seed_is_another_run(tiny: list[str], recorded: Recorded) -> None:
    rows = [recorded(go([*tiny, "train.iterations=5", f"seed={seed}"])[1]) for seed in (0, 1)]
    assert rows[0][0]["iteration"] == rows[1][0]["iteration"]
    assert rows[0][0]["loss/d"] != rows[1][0]["loss/d"]


def test_more_iterations_continue_the_same_directory(
    tiny: list[str], tmp_path: Path, recorded: Recorded
) -> None:
    longer = [*tiny, "train.iterations=20", "train.sample_every=5"]
    _, first = go([*tiny, "train.iterations=10", "train.sample_every=5"])
    ten = contents(first)
    outcome, second = go(longer)
    assert (outcome.exit_status, second) == (0, first)
    assert contents(second)["samples/00000010.png"] == ten["samples/00000010.png"]
    assert [row["iteration"] for row in recorded(second)] == [5, 10, 15, 20]
    assert status(second)["iteration"] == 20
    assert yaml.safe_load((second / "config.yaml").read_text())["train"]["iterations"] == 20

    _, straight = go([*longer, f"paths.outputs={tmp_path}/straight"])
    assert same_result(second, straight, recorded)
    before = contents(second)
    go([*tiny, "train.iterations=10"])  # fewer are done already
    assert contents(second) == before


def test_fresh_starts_over_next_to_a_kept_copy(tiny: list[str], recorded: Recorded) -> None:
    overrides = [*tiny, "train.iterations=5"]
    _, directory = go(overrides)
    (directory / "notes.txt").write_text("mine")
    before = contents(directory)
    for number in (1, 2):
        outcome, same = go([*overrides, "fresh=true"])
        assert (outcome.exit_status, same) == (0, directory)
        kept = directory.with_name(f"{directory.name}.kept{number}")
        assert same_result(kept, directory, recorded)
        assert not (directory / "notes.txt").exists()
        if number == 1:
            assert {k: v for k, v in contents(kept).items() if k != "lock"} == {
                k: v for k, v in before.items() if k != "lock"
            }
    assert len(list(directory.parent.iterdir())) == 3


def test_a_failed_run_resumes_where_it_was(
    tiny: list[str], tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*tiny, "train.iterations=10", "train.checkpoint_every=3"]
    draw = Gan.draw

    def fail(self: Gan, iteration: int) -> IterationInputs:
        if iteration == 8:
            raise RuntimeError("the cat sat on the cable")
        return draw(self, iteration)

    with monkeypatch.context() as patch:
        patch.setattr(Gan, "draw", fail)
        outcome, directory = go(overrides)
    assert outcome.exit_status == 1
    assert status(directory)["state"] == "failed"
    assert "the cat sat on the cable" in status(directory)["reason"]
    outcome, _ = go(overrides)
    assert (outcome.exit_status, status(directory)["state"]) == (0, "finished")
    _, straight = go([*overrides, f"paths.outputs={tmp_path}/straight"])
    assert same_result(directory, straight, recorded)


def test_trackers_are_finished_however_a_run_ends(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A W&B run that is left open would take in the next run of a sweep."""
    states: list[str] = []
    draw = Gan.draw

    class Noting:
        def __init__(self, run: RunInfo, **_: Any) -> None: ...

        def log(self, iteration: int, values: Mapping[str, float]) -> None: ...

        def log_samples(self, iteration: int, grid: Path) -> None: ...

        def finish(self, state: str) -> None:
            states.append(state)

    def fail(self: Gan, iteration: int) -> IterationInputs:
        if iteration == 3:
            raise RuntimeError("the cat sat on the cable")
        return draw(self, iteration)

    monkeypatch.setattr("gan_lab.tracking.tensorboard.TensorBoardTracker", Noting)
    monkeypatch.setattr(Gan, "draw", fail)
    go([*tiny, "tracker=tensorboard", "train.iterations=5"])
    go([*tiny, "tracker=tensorboard", "train.iterations=2", "seed=1"])
    assert states == ["failed", "finished"]


# --- divergence


def test_a_diverged_run_says_so_and_stays_so(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [*tiny, "norm=none", "optimizer.d_lr=1e6"]
    outcome, directory = go(overrides)
    assert outcome.exit_status == 3
    found = status(directory)
    assert found["state"] == "diverged"
    assert found["diverged_at"] == found["iteration"] + 1 <= 30
    assert found["quantity"] in found["reason"]
    assert not (directory / "generator.safetensors").exists()
    assert "diverged" in capsys.readouterr().out
    before = contents(directory)
    again, _ = go(overrides)
    assert again.exit_status == 3
    assert contents(directory) == before


# --- what is refused


@pytest.mark.parametrize(
    "wrong",
    [
        ["norm.scale=-1"],
        ["dataset.image_size=33"],
        ["optimizer.g_betas=[2,3]"],
        ["arch.generator._target_=no.such.Network"],
        ["arch.discriminator._target_=gan_lab.losses.Hinge"],
        ["device=cuda:99"],
    ],
)
def test_a_wrong_config_is_one_sentence_and_leaves_no_trace(
    tiny: list[str], tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(compose([*tiny, *wrong]))
    assert outcome.exit_status == 2
    assert math.isnan(outcome.fid)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_run_that_is_going_on_is_not_started_twice(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*tiny, "train.iterations=5"]
    directory = load(compose(overrides)).run_directory
    directory.mkdir(parents=True)
    with RunLock(directory / "lock"):
        outcome, _ = go(overrides)
        assert outcome.exit_status == 2
        assert "is being trained by process" in capsys.readouterr().err
        assert [path for path in directory.rglob("*") if path.is_file()] == [directory / "lock"]
    outcome, _ = go(overrides)
    assert outcome.exit_status == 0
