"""The closing words of a run: what they say is true, and what they name is there."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from gan_lab.config import compose
from gan_lab.report import summary as module
from gan_lab.runs.directory import RunDirectory
from gan_lab.tracking.history import History
from gan_lab.tracking.jsonl import read

ROOT = Path(__file__).resolve().parents[2]

ROWS = [
    {"iteration": 20, "speed/images_per_s": 110.0, "metric/fid_digits": 12.5, "metric/is_digits_mean": 3.5},
    {"iteration": 30, "speed/images_per_s": 110.0, "metric/fid_digits": 14.25, "metric/is_digits_mean": 3.25},
]


@pytest.fixture(params=["run", "a run with spaces; and more"])
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> RunDirectory:
    made = RunDirectory(tmp_path / request.param)
    made.create()
    made.metrics.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made.samples.mkdir(exist_ok=True)
    for iteration in (10, 20, 30):
        (made.samples / f"{iteration:08d}.png").touch()
    made.log.touch()
    made.write_status("finished", 30, seed=0, device="cpu")
    return made


def summary(directory: RunDirectory, state: str, was_before: bool = False) -> str:
    return module.summary(directory, state, History(read(directory.metrics)), was_before)


def commands(text: str) -> list[list[str]]:
    """The commands after the word `next`, as a shell reads them."""
    lines = text.split("next:\n")[1].splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_the_best_and_the_last_of_each_metric(directory: RunDirectory) -> None:
    text = summary(directory, "finished")
    assert re.search(r"metric/fid_digits +last 14\.250 +best 12\.500", text)
    assert re.search(r"metric/is_digits_mean +last 3\.250 +best 3\.500", text)  # the higher the better
    assert "110 images/s" in text
    assert "finished after iteration 30" in text
    assert text.count("metric/") == 2


@pytest.mark.parametrize(("last", "expected"), [(0.0, ["20"]), (1.0, [])])
def test_a_discriminator_that_stopped_learning_is_told(
    directory: RunDirectory, last: float, expected: list[str]
) -> None:
    rows = [
        {"iteration": 10 * k, "grad_norm/d": norm} for k, norm in enumerate([3.0, 2.0, 0.0, 0.0, last], 1)
    ]
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert re.findall(r"learned nothing after iteration (\d+)", summary(directory, "finished")) == expected


@pytest.mark.parametrize("state", ["finished", "diverged", "interrupted", "failed"])
def test_every_file_that_is_named_exists(directory: RunDirectory, state: str) -> None:
    newest = directory.samples / "00000030.png"
    expected = {"samples": newest, "metrics": directory.metrics, "log": directory.log}
    if state == "finished":
        directory.generator.touch()
        expected["weights"] = directory.generator
    root = re.escape(str(directory.root))
    files, _ = summary(directory, state).split("next:")
    named = re.findall(rf"^  (\w+) +({root}.*)$", files, re.M)
    assert {name: Path(path) for name, path in named} == expected
    assert all(path.is_file() for path in expected.values())


@pytest.mark.parametrize("state", ["finished", "diverged", "interrupted", "failed"])
def test_three_commands_to_try_that_a_shell_and_hydra_understand(
    directory: RunDirectory, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["train.py", "-m", "norm=sn", "arch.width=0.5,1", "fresh=true", "paths.outputs=my outputs"]
    monkeypatch.setattr("sys.argv", typed)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.chdir(ROOT)
    tried = commands(summary(directory, state))
    assert len(tried) == 3
    assert tried[-1] == ["python", "train.py", "--help"]
    for program, *arguments in tried:
        if program == "less":
            assert Path(*arguments).is_file()
            continue
        assert program == "python"
        script, *options = arguments
        assert (ROOT / script).is_file()
        if script == "train.py":  # an override of a sweep is valid for each of its values
            overrides = [option.split(",")[0] for option in options if not option.startswith("-")]
            compose(overrides)
    if state == "finished":
        script = tried[0].index("scripts/generate.py")
        assert Path(tried[0][script + 1]) == directory.root
    if state in ("interrupted", "failed"):  # to go on, not to start over
        assert tried[0] == ["python", *(argument for argument in typed if argument != "fresh=true")]


def test_the_reason_and_that_it_was_before(directory: RunDirectory) -> None:
    directory.write_status("diverged", 12, "loss/d is nan", seed=0, device="cpu")
    text = summary(directory, "diverged", was_before=True)
    assert "already diverged at iteration 12: loss/d is nan" in text


def test_offline_wandb_files_are_to_be_uploaded(directory: RunDirectory) -> None:
    assert "sync_wandb" not in summary(directory, "finished")
    (directory.root / "wandb" / "offline-run-1").mkdir(parents=True)
    (line,) = re.findall(r"python scripts/sync_wandb.py .*", summary(directory, "finished"))
    assert shlex.split(line)[2] == str(directory.root)


def test_a_run_that_recorded_nothing_has_a_summary(tmp_path: Path) -> None:
    empty = RunDirectory(tmp_path / "empty")
    empty.create()
    text = summary(empty, "interrupted")
    assert "metric/" not in text
    assert len(commands(text)) == 3
