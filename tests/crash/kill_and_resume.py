"""Kills runs with SIGKILL at random and at aimed moments, resumes them until they finish, and compares.

`python tests/crash/kill_and_resume.py --kills 200 --seed 0` ends with status 0 if every run that was killed
and resumed left the same bits as one that was left alone: every row of metrics.jsonl but speed and memory,
each iteration once, every sample grid, the generator, and all tensors of the last checkpoints.
"""

import argparse
import atexit
import collections
import contextlib
import functools
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401  # all that a run imports late, so that a start takes a moment
import torch
import wandb  # noqa: F401
from omegaconf import DictConfig

import gan_lab.metrics.digits_extractor  # noqa: F401
from gan_lab.config import compose, resolved, run_directory
from gan_lab.metrics.evaluation import Evaluator
from gan_lab.run import run
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import FINISHED, RunDirectory
from gan_lab.tracking import JsonLines
from gan_lab.tracking.wandb import WandbTracker
from gan_lab.training import Trainer, trainer

DEMO = [
    "experiment=tiny",
    "device=cpu",
    "arch.width=0.03125",
    "train.iterations=16",
    "train.batch_size=8",
    "train.log_every=2",
    "train.sample_every=5",
    "train.evaluate_every=6",
    "train.checkpoint_every=4",
    "train.keep_every=8",
    "metrics.num_generated=200",
    "metrics.batch_size=50",
]
SETTINGS = (
    "norm=bssn",
    "norm=sn norm.gamma=per_layer norm.target=both optimizer.n_dis=2 optimizer.decay=linear train.ema=0.9",
    "norm=none loss=wgan_gp metrics.kid=true metrics.kid_subset_size=9 metrics.prc=true probes.audit_every=8",
)

# Where a kill is aimed: (moment, owner, name of the function, seconds after the call within which it comes).
AIMS: tuple[tuple[str, Any, str, float], ...] = (
    ("step", Trainer, "iterate", 0.03),
    ("evaluation", Evaluator, "evaluate", 0.1),
    ("sample grid", trainer, "write_grid", 0.02),
    ("record", JsonLines, "log", 0.001),
    ("checkpoint", checkpoint, "save", 0.02),
    ("rename", os, "replace", 0.0),
    ("flush to disk", os, "fsync", 0.0),
    ("deletion", os, "unlink", 0.0),
    ("generator", Trainer, "write_generator", 0.005),
)
TORN = "half a file"
WANDB_FINISH = ("W&B finish", WandbTracker, "finish", 1.0)
ANYTIME = "any time"


@dataclass(frozen=True)
class Plan:
    """When one process is to die: at the `number`-th call of something, `delay` seconds into it."""

    moment: str
    arm: Callable[[], None]
    timeout: float | None = None  # for ANYTIME: the parent kills after so many seconds


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, number: int, delay: float) -> None:
    """Let this process die `delay` seconds after the `number`-th call of `owner.name` begins."""
    original, calls = getattr(owner, name), 0

    @functools.wraps(original)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            if delay == 0:
                kill_self()
            threading.Timer(delay, kill_self).start()
        return original(*arguments, **named)

    setattr(owner, name, wrapper)


def in_mid_write(number: int, share: float) -> None:
    """Let this process die when it has written a part of a file: a torn write."""
    original, calls = Path.write_bytes, 0

    def write_bytes(self: Path, content: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == number:
            original(self, content[: int(share * len(content))])
            kill_self()
        return original(self, content)

    Path.write_bytes = write_bytes  # type: ignore[method-assign]


def draw_plan(rng: random.Random, with_wandb: bool, duration: float) -> Plan:
    """A death at random; `duration` is that of an undisturbed run."""
    if with_wandb and rng.random() < 0.5:
        moment, owner, name, longest = WANDB_FINISH
        return Plan(moment, functools.partial(at_call, owner, name, 1, rng.uniform(0, longest)))
    if rng.random() < 0.4:
        return Plan(ANYTIME, lambda: None, rng.uniform(0, duration))
    index = rng.randrange(len(AIMS) + 1)
    if index == len(AIMS):
        return Plan(TORN, functools.partial(in_mid_write, rng.randint(1, 3), rng.random()))
    moment, owner, name, longest = AIMS[index]
    number = 1 if name == "write_generator" else rng.randint(1, 4)
    return Plan(moment, functools.partial(at_call, owner, name, number, rng.uniform(0, longest)))


def in_child(work: Callable[[], int], log: Path, timeout: float | None = None) -> int:
    """Fork, do `work`, return its exit status, -9 if it was killed; after `timeout` seconds this kills it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            status = work()
            atexit._run_exitfuncs()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    if timeout is not None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(config: DictConfig, plan: Plan | None = None) -> int:
    torch.set_num_threads(1)
    if plan:
        plan.arm()
    return run(config).exit_status


def directory_of(config: DictConfig) -> RunDirectory:
    return RunDirectory(run_directory(resolved(config)))


def differences(ours: RunDirectory, reference: RunDirectory) -> Iterator[str]:
    """What a killed and resumed run left otherwise than an undisturbed one."""
    if ours.read_status().get("state") != FINISHED:
        yield f"its state is {ours.read_status().get('state')}"
    rows, expected = rows_of(ours.metrics), rows_of(reference.metrics)
    iterations = [row["iteration"] for row in rows]
    if iterations != sorted(set(iterations)):
        yield f"metrics.jsonl holds the iterations {iterations}"
    yield from (
        f"metrics.jsonl: {row} and not {wanted}"
        for row, wanted in zip(rows, expected, strict=False)
        if row != wanted
    )
    if len(rows) != len(expected):
        yield f"metrics.jsonl has {len(rows)} rows and not {len(expected)}"
    for folder, pattern in (("samples", "*.png"), (".", "*.safetensors")):
        files, wanted_files = (
            {path.name: path.read_bytes() for path in (run.root / folder).glob(pattern)}
            for run in (ours, reference)
        )
        yield from (f"{name} differs" for name in wanted_files if files.get(name) != wanted_files[name])
        yield from (f"{name} should not be there" for name in files.keys() - wanted_files.keys())
    # A run that was asked to stop has checkpoints of its own beside the last one.
    states, wanted_states = (
        {path.name: path.read_bytes() for path in run.checkpoints.glob("*.pt")} for run in (ours, reference)
    )
    if max(states, default="") != max(wanted_states):
        yield f"the last checkpoint is {max(states, default='')} and not {max(wanted_states)}"
    for name in states.keys() & wanted_states.keys():
        if not same_state(states[name], wanted_states[name]):
            yield f"{name} differs"
    litter = [str(path) for path in ours.root.rglob(".*.tmp") if "wandb" not in path.parts]
    if litter:
        yield f"half-written files are left: {litter}"


def rows_of(metrics: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl without what the machine decides."""
    machine = ("speed/", "memory/")
    rows = (json.loads(line) for line in metrics.read_text().splitlines())
    return [{key: value for key, value in row.items() if not key.startswith(machine)} for row in rows]


def same_state(ours: bytes, theirs: bytes) -> bool:
    """Whether two checkpoints hold the same bits, but for the record's length (speeds differ in digits)."""
    states = [torch.load(io.BytesIO(content), weights_only=True) for content in (ours, theirs)]
    for state in states:
        del state["record_length"]
    return _same(*states)


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@dataclass
class Report:
    kills: collections.Counter[str]
    starts: int = 0
    runs: int = 0
    wandb_runs: int = 0


def torment(folder: Path, kills: int, seed: int) -> Report:
    """Kill runs `kills` times in all; raises AssertionError where one ends otherwise than undisturbed."""
    rng, report = random.Random(seed), Report(collections.Counter())
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    references: dict[str, tuple[RunDirectory, float]] = {}
    while report.kills.total() < kills:
        setting = SETTINGS[report.runs % len(SETTINGS)]
        common = [*DEMO, *setting.split(), f"paths.data={folder / 'data'}"]
        if setting not in references:
            references[setting] = undisturbed(common, folder, log)
        reference, duration = references[setting]
        # Every eighth run keeps a W&B record too, which takes seconds more; the references never do.
        with_wandb = report.runs % 8 == 3
        tracker = "tracker.mode=offline" if with_wandb else "tracker=local"
        config = compose([*common, tracker, f"paths.outputs={folder / str(report.runs)}"])
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            plan = draw_plan(rng, with_wandb, duration) if report.kills.total() < kills else None
            report.starts += 1
            status = in_child(functools.partial(train, config, plan), log, plan and plan.timeout)
            if status == -signal.SIGKILL:
                assert plan, "killed by somebody else"
                report.kills[plan.moment] += 1
        assert status == 0, f"run {report.runs} ended with status {status}:\n{log.read_text()[-3000:]}"
        found = list(differences(directory_of(config), reference))
        assert not found, f"run {report.runs} ({setting}):\n" + "\n".join(found)
        report.runs += 1
        report.wandb_runs += with_wandb
    return report


def undisturbed(common: list[str], folder: Path, log: Path) -> tuple[RunDirectory, float]:
    """A run that nobody kills, and how long it takes; done twice, because the first prepares the data."""
    outputs = (folder / "first", folder / "second")
    runs = [compose([*common, "tracker=local", f"paths.outputs={path}"]) for path in outputs]
    for config in runs:
        begin = time.monotonic()
        assert in_child(functools.partial(train, config), log) == 0, log.read_text()
    first, second = map(directory_of, runs)
    assert not list(differences(first, second)), "two undisturbed runs differ"
    return first, time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kill runs at random moments, resume them, compare the bits."
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    given = parser.parse_args()
    begin = time.monotonic()
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[variable]
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(tempfile.mkdtemp())
        if not given.folder:  # a TemporaryDirectory would go with the first child that exits
            stack.callback(shutil.rmtree, folder)
        for kind in ("config", "cache", "data"):
            os.environ[f"WANDB_{kind.upper()}_DIR"] = str(folder / "wandb" / kind)
        try:
            report = torment(folder.resolve(), given.kills, given.seed)
        except AssertionError as error:
            print(f"not bit-identical: {error}")
            return 1
    for moment, count in report.kills.most_common():
        print(f"{count:5} kills at {moment}")
    print(
        f"{report.kills.total()} kills of {report.runs} runs ({report.wandb_runs} with W&B) in "
        f"{report.starts} starts: all bit-identical to undisturbed ones, in {time.monotonic() - begin:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
