"""Kills runs with SIGKILL at random and at aimed moments, resumes them until they finish, and compares.

`python tests/crash/kill_and_resume.py --kills 200 --seed 0` ends with status 0 if every run that was killed
and resumed left the same bits as one that was left alone: every row of metrics.jsonl but speed and memory,
each iteration once, every sample grid, the generator, and all tensors of the last checkpoints. With
`--device cuda` on a GPU, where iterations are graphs.

No clock decides when a kill comes: a process dies at a call of a function whose number is drawn, so that the
seed says where, however fast the machine is.
"""

import argparse
import atexit
import collections
import contextlib
import functools
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import safetensors.torch
import sklearn.datasets  # noqa: F401  # all that a run imports late, so that a start takes a moment
import torch
import wandb  # noqa: F401
from omegaconf import DictConfig

import gan_lab.metrics.figures  # noqa: F401
from gan_lab.config import compose, load
from gan_lab.metrics.evaluation import Evaluator
from gan_lab.run import run
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import FINISHED, RunDirectory
from gan_lab.tracking import JsonLines
from gan_lab.tracking.wandb import WandbTracker

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
    "metrics.digits.num_generated=200",
    "metrics.digits.batch_size=50",
]
SETTINGS = (
    "norm=bssn",
    "norm=sn norm.gamma=per_layer norm.target=both optimizer.n_dis=2 optimizer.decay=linear train.ema=0.9",
    "norm=none loss=wgan_gp metrics.digits.measure=[fid,is,kid,prc] metrics.digits.kid_subset_size=9 "
    "probes.audit_every=8",
)

# Where a kill is aimed: (moment, owner, name of the function, calls and returns after it begins within which
# the kill comes: about as many as it makes itself).
AIMS: tuple[tuple[str, Any, str, int], ...] = (
    ("step", torch.Tensor, "backward", 40_000),
    ("evaluation", Evaluator, "evaluate", 14_000),
    ("sample grid", PIL.Image.Image, "save", 400),
    ("record", JsonLines, "log", 60),
    ("checkpoint", checkpoint, "save", 72_000),
    ("rename", os, "replace", 0),
    ("flush to disk", os, "fsync", 0),
    ("deletion", os, "unlink", 0),
    ("generator", safetensors.torch, "serialize", 2_000),
)
TORN = "half a file"
WANDB_FINISH = ("W&B finish", WandbTracker, "finish", 1_500)
ANYTIME = "any time"


@dataclass(frozen=True)
class Plan:
    """How one process is made to die."""

    moment: str
    arm: Callable[[], None]


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(count: int) -> None:
    """Let this process die once this thread has made `count` calls of functions and returns from them."""
    left = count

    def step(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            kill_self()

    sys.setprofile(step)


def at_call(owner: Any, name: str, number: int, count: int) -> None:
    """Let this process die `count` calls and returns after the `number`-th call of `owner.name` begins."""
    original, calls = getattr(owner, name), 0

    @functools.wraps(original)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            die_after(count)
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


def draw_plan(rng: random.Random, with_wandb: bool, length: int) -> Plan:
    """A death at random; `length` is the number of calls and returns of an undisturbed run."""
    if with_wandb and rng.random() < 0.5:
        moment, owner, name, longest = WANDB_FINISH
        return Plan(moment, functools.partial(at_call, owner, name, 1, rng.randint(0, longest)))
    if rng.random() < 0.4:
        return Plan(ANYTIME, functools.partial(die_after, rng.randrange(length)))
    index = rng.randrange(len(AIMS) + 1)
    if index == len(AIMS):
        return Plan(TORN, functools.partial(in_mid_write, rng.randint(1, 3), rng.random()))
    moment, owner, name, longest = AIMS[index]
    number = 1 if moment == "generator" else rng.randint(1, 4)
    return Plan(moment, functools.partial(at_call, owner, name, number, rng.randint(0, longest)))


def in_child(work: Callable[[], int], log: Path) -> int:
    """Fork, do `work`, return its exit status, -9 if it was killed."""
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
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(config: DictConfig, plan: Plan | None = None) -> int:
    torch.set_num_threads(1)
    if plan:
        plan.arm()
    return run(config).exit_status


def train_counting(config: DictConfig, path: Path) -> int:
    """Train, and write down how many calls of functions and returns from them that takes."""
    calls = itertools.count()
    sys.setprofile(lambda *_: next(calls) and None)
    status = train(config)
    sys.setprofile(None)
    path.write_text(str(next(calls)))
    return status


def directory_of(config: DictConfig) -> RunDirectory:
    return RunDirectory(load(config).run_directory)


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
    states = [torch.load(io.BytesIO(it), map_location="cpu", weights_only=True) for it in (ours, theirs)]
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


def torment(folder: Path, kills: int, seed: int, device: str = "cpu") -> Report:
    """Kill runs `kills` times in all; raises AssertionError where one ends otherwise than undisturbed."""
    rng, report = random.Random(seed), Report(collections.Counter())
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    references: dict[str, tuple[RunDirectory, int]] = {}
    while report.kills.total() < kills:
        setting = SETTINGS[report.runs % len(SETTINGS)]
        common = [*DEMO, f"device={device}", *setting.split(), f"paths.data={folder / 'data'}"]
        if setting not in references:
            references[setting] = undisturbed(common, folder, log)
        reference, length = references[setting]
        # Every eighth run keeps a W&B record too, which takes seconds more; the references never do.
        with_wandb = report.runs % 8 == 3
        tracker = "tracker.mode=offline" if with_wandb else "tracker=local"
        config = compose([*common, tracker, f"paths.outputs={folder / str(report.runs)}"])
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            plan = draw_plan(rng, with_wandb, length) if report.kills.total() < kills else None
            report.starts += 1
            status = in_child(functools.partial(train, config, plan), log)
            if status == -signal.SIGKILL:
                assert plan, "killed by somebody else"
                report.kills[plan.moment] += 1
        assert status == 0, f"run {report.runs} ended with status {status}:\n{log.read_text()[-3000:]}"
        found = list(differences(directory_of(config), reference))
        assert not found, f"run {report.runs} ({setting}):\n" + "\n".join(found)
        report.runs += 1
        report.wandb_runs += with_wandb
    return report


def undisturbed(common: list[str], folder: Path, log: Path) -> tuple[RunDirectory, int]:
    """A run that nobody kills, and its calls and returns; done twice, as the first prepares the data."""
    outputs, calls = (folder / "first", folder / "second"), folder / "calls.txt"
    runs = [compose([*common, "tracker=local", f"paths.outputs={path}"]) for path in outputs]
    for config in runs:
        assert in_child(functools.partial(train_counting, config, calls), log) == 0, log.read_text()
    first, second = map(directory_of, runs)
    assert not list(differences(first, second)), "two undisturbed runs differ"
    return first, int(calls.read_text())


@contextlib.contextmanager
def working_folder(chosen: Path | None) -> Iterator[Path]:
    """The folder that was chosen, or a temporary one; W&B sees no account and no settings elsewhere."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[variable]
    folder = chosen or Path(tempfile.mkdtemp())
    for kind in ("config", "cache", "data"):
        os.environ[f"WANDB_{kind.upper()}_DIR"] = str(folder / "wandb" / kind)
    os.environ["NETRC"] = str(folder / "netrc")
    try:
        yield folder.resolve()
    finally:
        if not chosen:  # a TemporaryDirectory would go with the first child that exits
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kill runs at random moments, resume them, compare the bits."
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where runs compute: cpu or cuda")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    given = parser.parse_args()
    with working_folder(given.folder) as folder:
        try:
            report = torment(folder, given.kills, given.seed, given.device)
        except AssertionError as error:
            print(f"not bit-identical: {error}")
            return 1
    for moment, count in report.kills.most_common():
        print(f"{count:5} kills at {moment}")
    print(
        f"{report.kills.total()} kills of {report.runs} runs ({report.wandb_runs} with W&B) in "
        f"{report.starts} starts: all bit-identical to undisturbed ones"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
