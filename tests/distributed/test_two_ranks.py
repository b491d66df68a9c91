"""Two ranks are one process: the same numbers, one writer, one voice."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rank_programs import IN_DOUBLE, JUDGED, SHAPES, in_double, judged, normalized
from torch import Tensor

from gan_lab.config import compose, load
from gan_lab.run import run
from gan_lab.runs.directory import RunDirectory

Rows = list[dict[str, float]]
Recorded = Callable[[Path], Rows]

# Small steps and a smooth loss: so calm a run does not amplify float32's rounding in 50 iterations.
CALM = [
    *("experiment=tiny", "arch.width=0.03125", "tracker=local", "device=cpu"),
    *("norm=sn", "loss=nonsaturating"),
    *("optimizer.g_lr=5e-6", "optimizer.d_lr=5e-6", "train.batch_size=16", "train.log_every=1"),
    *("probes.every=10", "probes.audit_every=25", "train.sample_every=25", "train.evaluate_every=25"),
    "train.checkpoint_every=25",
]
ITERATIONS = 50


class Runs(NamedTuple):
    """Folders: of one process, of two ranks, and what each rank left of itself beside its run."""

    one: Path
    two: Path

    def left(self, name: str) -> list[Any]:
        return [torch.load(self.two / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]


def overrides(data: Path, folder: Path, *more: str) -> list[str]:
    return [*CALM, f"paths.data={data}", f"paths.outputs={folder}", f"train.iterations={ITERATIONS}", *more]


def judged_run(data: Path, folder: Path, *more: str) -> list[str]:
    return overrides(data, folder, *JUDGED, *more)


def directory(arguments: list[str]) -> Path:
    return load(compose(arguments)).run_directory


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory, torchrun: Any, rank_programs_py: Path) -> Runs:
    """The same runs, in float32 and in float64, of one process and of two ranks."""
    folders = Runs(tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two"))
    assert run(compose(judged_run(data, folders.one))).exit_status == 0
    with in_double():
        for name, chosen in IN_DOUBLE.items():
            assert run(compose(overrides(data, folders.one / name, *chosen))).exit_status == 0
    answer = torchrun(rank_programs_py, "everything", str(folders.two), *overrides(data, folders.two))
    assert answer.returncode == 0, answer.stderr
    for last in ("50/50", "25/25"):
        assert answer.stdout.count(f"{last}  D ") == 1  # one rank's
    assert answer.stdout.count("finished after iteration") == 1 + len(IN_DOUBLE)
    return folders


def assert_close(one: Rows, two: Rows, names: tuple[str, ...], tolerance: float) -> None:
    assert [row["iteration"] for row in two] == [row["iteration"] for row in one]
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        chosen = [name for name in ours if name.startswith(names)]
        assert chosen
        expected = {name: ours[name] for name in chosen}
        near_zero = 1e-4 * tolerance  # rounding errors do not shrink with a value that passes through 0
        found = {name: theirs[name] for name in chosen}
        assert found == pytest.approx(expected, rel=tolerance, abs=near_zero)


# --- the same numbers


def test_losses_of_fifty_iterations_are_those_of_one_process(
    runs: Runs, data: Path, recorded: Recorded
) -> None:
    """In float32, the generator's batch norm synchronized."""
    one, two = (recorded(directory(judged_run(data, folder))) for folder in runs)
    assert len(one) == ITERATIONS
    assert_close(one, two, ("loss/",), 1e-5)


@pytest.mark.parametrize("name", IN_DOUBLE)
def test_in_float64_everything_recorded_is_that_of_one_process(
    runs: Runs, data: Path, recorded: Recorded, name: str
) -> None:
    """Losses, scores, penalties, slopes, gradient norms, sigmas, scales: rounding is out of the way."""
    one, two = (recorded(directory(overrides(data, folder / name, *IN_DOUBLE[name]))) for folder in runs)
    assert_close(one, two, ("",), 1e-6)
    assert any("slope/fake_max" in row for row in two)
    assert one[-1]["loss/d"] != one[0]["loss/d"]
    if name == "everything random":
        names = {"loss/penalty", "slope/fake_max", "grad_norm/d", "gamma/conv0", "sigma/g.linear"}
        assert names <= two[-1].keys()
        assert one[-1]["loss/d"] < 0.8 * one[0]["loss/d"]  # it does train


@pytest.mark.parametrize("part", ["", *IN_DOUBLE])
def test_ranks_end_with_the_same_bits(runs: Runs, part: str) -> None:
    """Weights, the norms' vectors, batch norm's statistics, optimizers."""
    first, second = Runs(runs.one, runs.two / part).left("rank")
    ours, theirs = dict(tensors(first)), dict(tensors(second))
    assert ours.keys() == theirs.keys()
    assert {"running_mean", "exp_avg"} <= {name.rsplit(".", 1)[-1] for name in ours}
    assert any(name.endswith(".u") for name in ours) == (part not in ("gradient normalization", "DRAGAN"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def tensors(state: Any, prefix: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        return [(prefix, state)]
    if not isinstance(state, dict):
        return []
    return [found for key, value in state.items() for found in tensors(value, f"{prefix}.{key}")]


def test_batch_norm_over_the_ranks_is_batch_norm_of_the_batch(runs: Runs) -> None:
    for seen in runs.left("seen"):
        for result, shape in zip(seen["normalized"], SHAPES, strict=True):
            expected = normalized(*shape)
            assert result.keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(
                    result[name], tensor, rtol=1e-6, atol=1e-12, msg=name, check_dtype=False
                )


def test_metrics_shared_out_are_bit_for_bit_those_of_one_process(runs: Runs, tmp_path: Path) -> None:
    """Of as many images as fill the ranks' batches, of one too few and of a rank without any in the end."""
    expected = [judged(tmp_path, count) for count in (64, 70, 37)]
    assert expected[0].keys() == {
        f"metric/{name}"
        for name in (
            *("fid", "is_3splits_mean", "is_3splits_std", "kid_subsets20_mean", "kid_subsets20_std"),
            *("precision", "recall"),
        )
    }
    for seen in runs.left("seen"):
        assert seen["judged"] == expected


def test_what_ranks_tell_each_other(runs: Runs) -> None:
    first, second = runs.left("seen")
    batch = torch.arange(12.0).view(6, 2)
    assert torch.equal(torch.cat([first["share"], second["share"]]), batch)
    for seen in (first, second):
        assert torch.equal(seen["gathered"], batch)
        assert seen["averaged"]["a"] == 1.5
        assert seen["averaged"]["b"].isnan()
        assert seen["gradient"].tolist() == [[0.5, 0.5]]
        assert seen["bias"] is None
        assert seen["largest"] == 7
        assert seen["objects"] == [{"rank": 0}, {"rank": 1}]
        assert seen["from first"] == "rank 0"
        for (numbers, others), last in zip(seen["shares"], (16, 15, 13, 11), strict=True):
            assert numbers.tolist() == list(range(10, last))
            assert others.tolist() == [[1.5 * number] for number in range(10, last)]
        assert len(seen["calls"]) == 4
        assert seen["errors"]["of the first"] == "UserError: the first cannot"
        assert seen["errors"]["of the second"] == "UserError: the second cannot"
    assert first["errors"]["a defect"] == "ZeroDivisionError: division by zero"
    assert second["errors"]["a defect"] == "RankFailure: another rank failed (ZeroDivisionError)"
    assert (first["is first"], second["is first"]) == (True, False)
    assert sorted([first["speaks"], second["speaks"]]) == [False, True]


# --- stopped and resumed


@pytest.fixture(scope="module")
def stopped(
    data: Path, tmp_path_factory: pytest.TempPathFactory, torchrun: Any, rank_programs_py: Path
) -> Path:
    """The folder of a run of two ranks that ended because torchrun was told to."""
    folder = tmp_path_factory.mktemp("stopped")
    endless = judged_run(data, folder, "train.iterations=1000000")
    answer = torchrun(rank_programs_py, "stop", str(folder), *endless)
    assert answer.returncode != 0
    assert "SignalException" in answer.stderr  # torchrun's own
    assert answer.stdout.count("interrupted after iteration") == 1
    return folder


def test_a_signal_stops_all_ranks_at_one_iteration(stopped: Path, data: Path) -> None:
    status = RunDirectory(directory(judged_run(data, stopped))).read_status()
    assert (status["state"], status["iteration"]) == ("interrupted", 5)
    assert status["reason"] == "stopped by SIGTERM after iteration 5"
    for left in Runs(stopped, stopped).left("rank"):
        adams = [state for name in ("g_optimizer", "d_optimizer") for state in left[name]["state"].values()]
        assert {int(state["step"]) for state in adams} == {5}
    assert status["device"] == "2 × cpu"
    assert [(stopped / f"status-{rank}").read_text() for rank in (0, 1)] == ["4", "4"]


def test_resumed_on_one_process_and_on_two_again(
    stopped: Path, runs: Runs, data: Path, tmp_path: Path, torchrun: Any, train_py: Path, recorded: Recorded
) -> None:
    shutil.copytree(directory(judged_run(data, stopped)), directory(judged_run(data, tmp_path)))
    assert run(compose(judged_run(data, tmp_path, "train.iterations=40"))).exit_status == 0
    answer = torchrun(train_py, *judged_run(data, tmp_path))
    assert answer.returncode == 0, answer.stderr
    one, mixed = (recorded(directory(judged_run(data, folder))) for folder in (runs.one, tmp_path))
    # The metrics that end the shorter schedule are not in the longer one's record.
    mixed = [{name: row[name] for name in ours} for ours, row in zip(one, mixed, strict=True)]
    assert_close(one, mixed, ("loss/",), 1e-5)


def test_two_runs_of_two_ranks_have_the_same_bits(
    stopped: Path, runs: Runs, data: Path, tmp_path: Path, torchrun: Any, train_py: Path, recorded: Recorded
) -> None:
    """One of them stopped in between: metrics, sample grids and the generator."""
    shutil.copytree(directory(judged_run(data, stopped)), again := directory(judged_run(data, tmp_path)))
    answer = torchrun(train_py, *judged_run(data, tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("finished after iteration") == 1
    assert "cpu (2 ranks, " in answer.stdout
    whole = directory(judged_run(data, runs.two))
    assert recorded(again) == recorded(whole)
    names = [path.name for path in (whole / "samples").iterdir()]
    assert len(names) == 2
    for name in ("generator.safetensors", *(f"samples/{name}" for name in names)):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


# --- parting


def test_no_thread_of_the_group_outlives_it(tmp_path: Path, torchrun: Any, rank_programs_py: Path) -> None:
    """One that ends with the interpreter may abort the process, after all was done."""
    answer = torchrun(rank_programs_py, "leave", str(tmp_path))
    assert answer.returncode == 0, answer.stderr


# --- one voice


def test_a_defect_of_one_rank_ends_all_and_is_shown_once(
    data: Path, tmp_path: Path, torchrun: Any, rank_programs_py: Path
) -> None:
    answer = torchrun(rank_programs_py, "fail", str(tmp_path), *overrides(data, tmp_path, "metrics=none"))
    assert answer.returncode == 1
    assert answer.stderr.count("ZeroDivisionError: a defect of one rank") == 1
    status = RunDirectory(directory(overrides(data, tmp_path, "metrics=none"))).read_status()
    assert status["state"] == "failed"
    assert "another rank" in status["reason"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["norm=spectral"], "Could not find 'norm/spectral'"),
        (["-m", "seed=0,1"], "error: a sweep (-m) cannot run in several ranks"),
    ],
)
def test_a_refusal_is_said_once(wrong: list[str], said: str, torchrun: Any, train_py: Path) -> None:
    answer = torchrun(train_py, *wrong)
    assert answer.returncode == 1  # torchrun's own; it tells the ranks' apart
    assert (answer.stdout + answer.stderr).count(said) == 1
    statuses = re.findall(r"exitcode  : (-?\d+)", answer.stderr)
    assert statuses[-1] == "2"  # of the root cause, which torchrun names last
    assert set(statuses) <= {"2", str(-signal.SIGTERM)}  # a rank may be ended before it has begun


def test_the_record_is_whole_json(runs: Runs, data: Path) -> None:
    path = directory(judged_run(data, runs.two)) / "metrics.jsonl"
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == ITERATIONS
