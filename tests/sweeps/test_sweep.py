"""What a sweep's runs leave, and what is made of it: the table, the exit status, the next commands."""

import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from synthetic_runs import make_run

from gan_lab import report, sweep
from gan_lab.config import compose, load, resolved
from gan_lab.errors import UserError
from gan_lab.presets import CONFIGS
from gan_lab.run import Outcome
from gan_lab.runs.directory import EXIT_STATUS
from gan_lab.sweep import record, worker
from gan_lab.sweep.closing import Sweep
from gan_lab.sweep.record import Launch, Record
from gan_lab.tracking.history import History
from gan_lab.tracking.jsonl import read

ROOT = CONFIGS.parent


# --- the closing table


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Seven runs that ended in each way, and an eighth that did not begin."""
    outputs, launch = tmp_path / "outputs", Launch.begin(tmp_path / "outputs" / "sweeps" / "now")
    states = {"none": "diverged", "sn": "finished", "ssn": "failed", "bsn": "interrupted", "bssn": "running"}
    planned = [[f"norm={norm}", "seed=0", "train.iterations=2000"] for norm in [*states, "strict_sn"]]
    planned += [
        ["norm=sn", "seed=-1", "train.iterations=2000"],
        ["norm=sn", "seed=1", "train.iterations=2000"],
    ]
    for number, (norm, state) in enumerate(states.items()):
        directory = make_run(
            outputs, norm, rows=40, grids=0, state=state, reason="the disk is full" * (norm == "ssn")
        )
        record = Record(planned[number], str(directory), None, 1, EXIT_STATUS.get(state))
        record.write(launch.record(number))
    Record(planned[5], str(outputs / "nothing"), None, 1).write(launch.record(5))
    refused = Record(planned[6], str(outputs / "nothing"), None, 1, 2, "seed=-1 is not a whole number")
    refused.write(launch.record(6))
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "norm=none,sn", "fresh=true", "seed=0"])
    # The running one shall not be dead on a slow machine.
    monkeypatch.setattr("gan_lab.report.progress.STALE", math.inf)
    return Sweep(launch, outputs, planned)


def test_the_table_says_of_each_run_how_it_stands_and_what_to_do(
    ended: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended.close(0) == 4
    out = capsys.readouterr().out
    lines = out.strip().splitlines()[1:9]
    for line, words in zip(
        lines,
        (
            ("norm=sn seed=-1", "refused", "seed=-1 is not a whole number; mend that"),
            ("digits/dcgan/ssn/seed0", "failed", "the disk is full; see its train.log"),
            ("digits/dcgan/bssn/seed0", "dead", "its process is gone"),
            ("digits/dcgan/bsn/seed0", "interrupted", "and it resumes"),
            ("norm=strict_sn seed=0", "not begun", "and it begins"),
            ("norm=sn seed=1", "not begun", "and it begins"),
            ("digits/dcgan/none/seed0", "diverged", "FID"),
            ("digits/dcgan/sn/seed0", "finished", "FID"),
        ),
        strict=True,
    ):
        assert line.startswith(words[0].replace("digits", "cifar10")), line
        assert all(word in line for word in words[1:]), line
    assert "2 not begun" in out
    assert "train.py -m norm=none,sn seed=0  # resumes what is not finished" in out
    assert f"next: less {next(ended.outputs.glob('*/*/ssn/*'))}/train.log  # why it failed" in out
    assert f"comparison of all runs in {ended.outputs}: {ended.outputs}/report.html" in out


@pytest.mark.parametrize("is_submitted", [False, True])
def test_on_slurm_what_runs_or_waits_there_needs_nobody(
    is_submitted: bool, ended: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended.jobs = tmp_path / "jobs"
    if is_submitted:
        job = ended.jobs / "7_0"
        job.mkdir(parents=True)
        (job / "7_0_submitted.pkl").touch()
    ended.close(4)
    out = capsys.readouterr().out
    assert "1 running" in out
    assert ("1 queued" in out) == is_submitted
    assert "next: squeue --me" in out
    assert "comparison" not in out  # a sweep that was stopped ends at once


@pytest.mark.parametrize(
    "error", [UserError("the page needs plotly"), ImportError("no duckdb"), ValueError("?")]
)
def test_a_page_that_cannot_be_written_fails_nothing(
    error: Exception, ended: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_page(root: Path, out: Path) -> Path:
        raise error

    monkeypatch.setattr(report, "write_page", write_page)
    ended.planned = ended.planned[:2]
    for number in range(2, 7):
        ended.launch.record(number).unlink()
    assert ended.close(0) == 3  # the worst: one diverged
    out = capsys.readouterr().out
    assert f"no comparison page: {error}" in out
    assert "next:" not in out


# --- one run


@pytest.fixture
def hydra_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets Hydra's config of a run in a sweep; returns the run's own."""
    before = HydraConfig.instance().cfg
    monkeypatch.setenv(record.VARIABLE, str(tmp_path / "launch"))

    def settle(*overrides: str) -> Any:
        cfg = OmegaConf.create(
            OmegaConf.to_container(compose([*overrides, f"paths.outputs={tmp_path}/outputs"]))
        )
        output = str(tmp_path / "sweep" / "0")
        hydra = {
            "mode": RunMode.MULTIRUN,
            "runtime": {"output_dir": output},
            "overrides": {"task": list(overrides)},
            "job": {"num": 0, "chdir": None},
        }
        HydraConfig.instance().cfg = OmegaConf.create({"hydra": hydra})  # type: ignore[assignment]
        return cfg

    yield settle
    HydraConfig.instance().cfg = before


def test_fresh_starts_a_requeued_run_over_only_once(
    hydra_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(sys, "argv", [])
    asked: list[bool] = []
    where = load(hydra_job("norm=sn")).run_directory
    where.mkdir(parents=True)  # of an old run
    has_begun = False

    def run(cfg: Any) -> Outcome:
        asked.append(cfg.fresh)
        if cfg.fresh and has_begun:
            where.rename(where.with_name("kept"))
            where.mkdir()
        return Outcome(4)

    for _ in range(4):
        with pytest.raises(SystemExit) as ended:
            sweep.job(run, hydra_job("norm=sn", "fresh=true"))
        assert ended.value.code == 4  # and no result, for whoever waits
        has_begun = True
    assert asked == [True, True, False, False]


def test_no_run_begins_in_a_sweep_that_is_stopped(hydra_job: Any, tmp_path: Path) -> None:
    cfg = hydra_job("norm=sn")
    launch = Launch(tmp_path / "launch")
    launch.stop()
    fid = sweep.job(lambda cfg: pytest.fail("it began"), cfg)
    assert fid != fid
    assert launch.records() == {}


def test_the_record_of_several_ranks_names_their_directory(
    hydra_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record names the directory that the run takes, which depends on how batch norm is shared."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg = hydra_job("norm=sn", "train.sync_bn=false")
    monkeypatch.setattr(worker.launcher, "is_this_process", lambda: True)
    sweep.job(lambda cfg: Outcome(0), cfg)
    noted = Launch(tmp_path / "launch").records()[0].directory
    assert noted == str(load(cfg, 2).run_directory)
    assert noted != str(load(cfg).run_directory)


def _claim(folder: Path, claimed: Any, done: Any) -> None:
    claimed.put(Launch(folder).claim())
    done.wait()


def test_each_worker_has_a_number_of_its_own_until_it_dies(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    claimed, done = context.Queue(), context.Event()
    workers = [context.Process(target=_claim, args=(tmp_path, claimed, done)) for _ in range(3)]
    for process in workers:
        process.start()
    assert sorted(claimed.get() for _ in workers) == [0, 1, 2]
    done.set()
    for process in workers:
        process.join()
    last = context.Process(target=_claim, args=(tmp_path, claimed, done))
    last.start()
    assert claimed.get() == 0
    last.join()


@pytest.mark.parametrize(("count", "device"), [(0, None), (1, None), (3, "cuda:0")])
def test_a_worker_takes_a_gpu_where_there_are_several(
    count: int, device: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert worker._own_gpu(Launch(tmp_path)) == device


# --- presets


@pytest.mark.parametrize(
    ("preset", "extra"),
    [
        ("hydra/launcher=local_parallel", "sweeps"),
        ("hydra/launcher=slurm", "sweeps"),
        ("hydra/sweeper=optuna_scale", "optuna"),
    ],
)
def test_a_plugin_that_is_missing_is_one_sentence(preset: str, extra: str, tmp_path: Path) -> None:
    script = f"""
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hydra_plugins":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
sys.argv = ["train.py", "-m", "seed=0,1", "{preset}"]
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", script]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr == f"error: {preset} needs a plugin: pip install -e '.[{extra}]' in gan-lab's folder\n"
    assert list(tmp_path.iterdir()) == []


def test_what_an_agent_of_the_wandb_sweep_calls_composes() -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    config = yaml.safe_load((ROOT / "examples" / "sweeps" / "wandb.yaml").read_text())
    assert (ROOT / config["program"]).is_file()
    parameters = config["parameters"]
    for place in (0, -1):
        chosen = {
            name: {"value": values.get("values", [values.get("value")])[place]}
            for name, values in parameters.items()
        }
        arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
        words = create_sweep_command(config["command"])
        assert words[:3] == ["${env}", "${interpreter}", "${program}"]
        called = [
            word for part in words[3:] for word in (arguments if part == "${args_no_hyphens}" else [part])
        ]
        composed = resolved(compose(called))
        assert composed["norm"]["name"] == chosen["norm"]["value"]
        assert composed["seed"] == chosen["seed"]["value"]
    assert set(parameters["norm"]["values"]) <= {path.stem for path in (CONFIGS / "norm").glob("*.yaml")}


def test_optuna_searches_the_scale_and_the_same_line_resumes(data: Path, tmp_path: Path) -> None:
    common = [
        *(
            "experiment=tiny",
            "norm=ssn",
            "device=cpu",
            "tracker=local",
            "arch.width=0.03125",
            "train.batch_size=4",
        ),
        *(
            "train.iterations=10",
            "train.evaluate_every=0",
            "metrics.digits.num_generated=100",
            "probes.every=0",
        ),
        *(f"paths.data={data}", f"paths.outputs={tmp_path}/outputs"),
    ]

    def search(trials: int) -> tuple[str, dict[str, Any]]:
        options = ["hydra/sweeper=optuna_scale", f"hydra.sweeper.n_trials={trials}"]
        command = [sys.executable, str(ROOT / "train.py"), "-m", *options, *common]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results = sorted((tmp_path / "outputs" / "sweeps").glob("*/optimization_results.yaml"))
        return done.stdout, yaml.safe_load(results[-1].read_text())

    _, first = search(1)
    out, second = search(2)
    assert out.count("already finished") == 1
    found = {run.config["norm.scale"]: run for run in report.runs.find(tmp_path / "outputs")[0]}
    assert len(found) == 2
    assert all(0.7 <= scale <= 4.0 for scale in found)
    fids = {scale: History(read(run.directory.metrics)).fid for scale, run in found.items()}
    best = min(fids, key=lambda scale: fids[scale] or 0)
    assert second["best_params"]["norm.scale"] == pytest.approx(best)
    assert second["best_value"] == pytest.approx(fids[best])
    assert first["best_value"] >= second["best_value"]
