"""scripts/evaluate.py --record: figures come into a run's record after its training, and stay there."""

import csv
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gan_lab.metrics import Evaluator
from gan_lab.runs.directory import CONFIG_FORMAT, RunDirectory
from gan_lab.runs.lock import RunLock
from gan_lab.tracking.history import History
from gan_lab.tracking.jsonl import LATER, read

Main = Callable[[list[str]], int]
Refused = Callable[[int], str]
Evaluate = Callable[..., int]

KID = ("--metrics", "kid", "metrics.digits.kid_subset_size=20")
KID_NAMES = {f"metric/kid_digits_60_10k_subsets20_{name}" for name in ("mean", "std")}


@pytest.fixture
def evaluate(script: Callable[[str], Main], data: Path) -> Evaluate:
    main = script("evaluate")
    own = ("device=cpu", f"paths.data={data}")
    return lambda *arguments: main([str(argument) for argument in (*arguments, *own)])


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Sequence[Evaluator]:
    """The evaluators that judged anything, in their order."""
    calls: list[Evaluator] = []
    evaluate = Evaluator.evaluate

    def counted(self: Evaluator, generate: Any) -> dict[str, float]:
        calls.append(self)
        return evaluate(self, generate)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    return calls


def rows(run: Path) -> list[dict[str, Any]]:
    return list(read(run / "metrics.jsonl"))


def files(run: Path) -> dict[str, bytes]:
    """All that a run holds but its record and its lock."""
    paths = [path for path in run.rglob("*") if path.is_file() and path.name not in ("metrics.jsonl", "lock")]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def test_figures_are_recorded_once_at_their_iteration_and_nothing_is_trained(
    evaluate: Evaluate, finished_copy: Path, judged: Sequence[Evaluator], tmp_path: Path
) -> None:
    before, rest, figures = rows(finished_copy), files(finished_copy), []
    for number in (1, 2):
        file = tmp_path / f"{number}.json"
        assert evaluate(finished_copy, *KID, "--record", "--json", file) == 0
        figures.append(json.loads(file.read_text()))
        assert len(judged) == 1
    *old, new = rows(finished_copy)
    assert old == before
    assert new.keys() == {"iteration", LATER, *KID_NAMES}
    assert new["iteration"] == 3
    assert figures[0]["values"] == figures[1]["values"] == {name: new[name] for name in KID_NAMES}
    assert figures[0]["recorded"]
    assert files(finished_copy) == rest

    file = tmp_path / "unrecorded.json"
    assert evaluate(finished_copy, *KID, "--json", file) == 0
    assert json.loads(file.read_text())["values"] == figures[0]["values"]
    assert rows(finished_copy) == [*old, new]


def test_what_training_recorded_is_not_judged_again(
    evaluate: Evaluate, finished_copy: Path, judged: Sequence[Evaluator], tmp_path: Path
) -> None:
    before, file = rows(finished_copy), tmp_path / "figures.json"
    assert evaluate(finished_copy, "--record", "--json", file) == 0
    assert not judged
    assert rows(finished_copy) == before
    values = json.loads(file.read_text())["values"]
    assert values == {name: x for name, x in before[-1].items() if name.startswith("metric/")}


def test_a_checkpoints_figures_are_of_its_iteration_and_the_last_stay_the_last(
    evaluate: Evaluate, finished_copy: Path
) -> None:
    fid = "metric/fid_digits_60"
    last = History(rows(finished_copy)).metrics[fid].last
    assert evaluate(finished_copy / "checkpoints/00000002.pt", "--record") == 0
    new = rows(finished_copy)[-1]
    assert new["iteration"] == 2
    assert new[fid] != last
    history = History(rows(finished_copy))
    assert history.metrics[fid].last == history.fid == last
    assert {history.metrics[fid].least, history.metrics[fid].most} == {new[fid], last}


def test_the_generators_figures_are_of_its_iteration_wherever_the_run_stands_since(
    evaluate: Evaluate, finished_copy: Path
) -> None:
    """As after a continuation that was stopped: the generator is that of the earlier end."""
    RunDirectory(finished_copy).write_status("interrupted", 7)
    assert evaluate(finished_copy, *KID, "--record") == 0
    assert rows(finished_copy)[-1]["iteration"] == 3


def test_recorded_figures_stay_when_the_run_is_continued(
    evaluate: Evaluate,
    train: Callable[..., Path],
    finished_copy: Path,
    tmp_path: Path,
    recorded: Callable[[Path], list[dict[str, float]]],
) -> None:
    undisturbed = shutil.copytree(tmp_path / "outputs", tmp_path / "undisturbed")
    assert evaluate(finished_copy / "checkpoints/00000002.pt", *KID, "--record") == 0
    assert evaluate(finished_copy, *KID, "--record") == 0
    later = rows(finished_copy)[-2:]
    assert train(tmp_path / "outputs", "train.iterations=5") == finished_copy
    assert evaluate(finished_copy, *KID, "--record") == 0
    other = train(undisturbed, "train.iterations=5")

    of_both = recorded(finished_copy)
    trained = [row for row in of_both if LATER not in row]
    assert trained == recorded(other)
    assert trained[-1]["iteration"] == 5
    *kept, new = [row for row in of_both if LATER in row]
    assert kept == later
    assert new["iteration"] == 5
    name = "generator.safetensors"
    assert (finished_copy / name).read_bytes() == (other / name).read_bytes()


def test_figures_of_iterations_that_are_trained_again_go(
    evaluate: Evaluate, train: Callable[..., Path], finished_copy: Path, tmp_path: Path
) -> None:
    """A run that lost its newest checkpoint goes back; what was judged of the lost state goes with it."""
    for number in (2, 3):
        assert evaluate(finished_copy / f"checkpoints/0000000{number}.pt", *KID, "--record") == 0
    (finished_copy / "checkpoints/00000003.pt").unlink()
    RunDirectory(finished_copy).write_status("interrupted", 3)
    train(tmp_path / "outputs")
    assert [row["iteration"] for row in rows(finished_copy) if LATER in row] == [2]
    assert [row["iteration"] for row in rows(finished_copy) if "metric/fid_digits_60" in row] == [3]


def test_other_metrics_do_not_train_a_finished_run_again(
    evaluate: Evaluate,
    train: Callable[..., Path],
    finished_copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate(finished_copy, *KID, "--record") == 0
    before, record = files(finished_copy), rows(finished_copy)
    for other in (["metrics=none"], ["metrics.digits.measure=[fid,kid]", "metrics.digits.every=1"]):
        assert train(tmp_path / "outputs", *other) == finished_copy
        assert "already finished at iteration 3" in capsys.readouterr().out
    assert files(finished_copy) == before
    assert rows(finished_copy) == record


def test_a_run_that_is_being_trained_is_refused(
    evaluate: Evaluate, finished_copy: Path, refused: Refused
) -> None:
    before = rows(finished_copy)
    with RunLock(RunDirectory(finished_copy).lock):
        assert "is being trained" in refused(evaluate(finished_copy, *KID, "--record"))
        assert rows(finished_copy) == before
        assert evaluate(finished_copy, *KID) == 0  # but looked at


def test_figures_against_another_dataset_are_not_recorded(
    evaluate: Evaluate, finished_copy: Path, refused: Refused, tmp_path: Path
) -> None:
    """Their names would be those of figures against the run's own."""
    before = rows(finished_copy)
    others = (
        ["--against", "folder", "metrics=digits"],
        ["dataset=folder", "metrics=digits"],
    )
    for other in others:
        arguments = [
            *other,
            "metrics.digits.datasets=null",
            "dataset.image_size=32",
            f"dataset.path={tmp_path}",
        ]
        assert "own dataset" in refused(evaluate(finished_copy, *arguments, "--record"))
    assert "no run" in refused(evaluate(finished_copy / "samples", "--against", "digits", "--record"))
    assert rows(finished_copy) == before


def test_figures_that_are_no_numbers_are_recorded_once_too(
    evaluate: Evaluate,
    finished_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: dict.fromkeys(KID_NAMES, math.nan))
    before = rows(finished_copy)
    for _ in range(2):
        assert evaluate(finished_copy, *KID, "--record") == 0
        assert "mean  nan" in capsys.readouterr().out
    assert len(rows(finished_copy)) == len(before) + 1


def test_a_line_that_a_crash_cut_off_does_not_spoil_what_is_recorded(
    evaluate: Evaluate, finished_copy: Path
) -> None:
    before = rows(finished_copy)
    with (finished_copy / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "loss')
    assert evaluate(finished_copy, *KID, "--record") == 0
    assert rows(finished_copy)[:-1] == before
    assert rows(finished_copy)[-1].keys() >= KID_NAMES


def test_a_damaged_record_is_one_sentence(evaluate: Evaluate, finished_copy: Path, refused: Refused) -> None:
    for line in ("{\n", "5\n", "{}\n"):
        (finished_copy / "metrics.jsonl").write_text(line)
        assert "metrics.jsonl is damaged" in refused(evaluate(finished_copy, *KID, "--record"))
        assert (finished_copy / "metrics.jsonl").read_text() == line


def test_a_folder_of_runs_is_judged_whole_and_a_bad_one_stops_no_other(
    evaluate: Evaluate,
    finished_copy: Path,
    script: Callable[[str], Main],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs = tmp_path / "outputs"
    bad, good = (finished_copy.with_name(name) for name in ("seed0-bad", "seed1-good"))
    for copy in (bad, good, finished_copy.with_name(f"{finished_copy.name}.kept1")):
        shutil.copytree(finished_copy, copy)
    (bad / "config.yaml").write_text(f"format: {CONFIG_FORMAT}\n")
    (good / "wandb/run-1/files").mkdir(parents=True)
    (good / "wandb/run-1/files/config.yaml").write_text("learning_rate: {value: 1}\n")
    judged = ("--metrics", "fid", "metrics.digits.num_generated=40", "--record")
    assert evaluate(outputs, *judged) == 2
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if line] == [printed.err.strip()]
    assert str(bad) in printed.err
    for run in (finished_copy, good):
        assert str(run / "generator.safetensors") in printed.out
        assert rows(run)[-1].keys() == {"iteration", LATER, "metric/fid_digits_40"}
    assert len(rows(finished_copy.with_name(f"{finished_copy.name}.kept1"))) == len(rows(good)) - 1

    shutil.rmtree(bad)
    assert evaluate(finished_copy, good, *judged) == 0
    assert len([row for row in rows(good) if LATER in row]) == 1
    capsys.readouterr()
    table = tmp_path / "table.csv"
    assert script("compare")([str(outputs), "--csv", str(table)]) == 0
    with table.open(newline="") as file:
        means = {row["metric"]: float(row["mean"]) for row in csv.DictReader(file) if row["which"] == "final"}
    assert means["metric/fid_digits_40"] == pytest.approx(rows(good)[-1]["metric/fid_digits_40"])
    assert means["metric/fid_digits_40"] != means["metric/fid_digits_60"]
