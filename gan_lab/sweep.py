"""Sweeps: what a run does as one of many, and what is said when all of them have ended.

Hydra composes the runs and its launcher starts them: in this process, in parallel ones or on a cluster.
Each leaves a record in the sweep's folder; from these the process that launched them draws the closing table
and its exit status, whichever launcher and sweeper it was told to use.
"""

import dataclasses
import fcntl
import functools
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from gan_lab import presets
from gan_lab.distributed import env
from gan_lab.errors import UserError
from gan_lab.files import write_json
from gan_lab.runs.directory import EXIT_STATUS, FAILED, INTERRUPTED, RUNNING, WRONG_CONFIG

if TYPE_CHECKING:
    from gan_lab.report.progress import Progress
    from gan_lab.run import Outcome

presets.register()  # before Hydra composes anything

STOPPED = "stopped"  # this file in a sweep's folder keeps further runs from beginning
RECORD = "run.json"
STOPPED_STATUS = EXIT_STATUS[INTERRUPTED]

# Hydra's plugins that configs/hydra/ builds on: (group, choice, module, the extra that installs it).
PLUGINS = (
    ("hydra/launcher", "joblib", "hydra_joblib_launcher", "sweeps"),
    ("hydra/launcher", "submitit_slurm", "hydra_submitit_launcher", "sweeps"),
    ("hydra/launcher", "ray", "hydra_ray_launcher", "ray"),
    ("hydra/sweeper", "optuna", "hydra_optuna_sweeper", "optuna"),
)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(f"hydra_plugins.{module}") is not None
    except ModuleNotFoundError:  # no plugin at all
        return False


for _group, _name, _module, _extra in PLUGINS:
    if not _is_installed(_module):  # the presets shall compose, and SweepCallback say what is missing
        ConfigStore.instance().store(_name, {"needs": _extra}, group=_group)


class Ended(SystemExit):
    """A run's or a sweep's own exit status, unlike the 1 with which Hydra refuses a command line."""


@dataclass(frozen=True)
class Record:
    """What one run of a sweep leaves for the closing table."""

    overrides: list[str]
    directory: str | None = None  # None where the config is too wrong to have one
    inode: int | None = None  # of the directory before the run began
    pid: int = 0
    exit_status: int | None = None  # None until it ends
    reason: str = ""

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))


# --- in the process that trains


def job(run: Callable[[DictConfig], "Outcome"], cfg: DictConfig) -> float:
    """Train what `cfg` describes, alone or as one run of a sweep; returns the FID for a sweeper to minimize.

    Alone it raises Ended, with the run's exit status.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        raise Ended(run(cfg).exit_status)
    if env.rank():  # one of several ranks: the first leaves the record
        return run(cfg).fid
    path = Path(hydra.runtime.output_dir) / RECORD
    record = _begin(cfg, list(hydra.overrides.task), path)
    if (path.parent.parent / STOPPED).exists() or os.getppid() != _parent():
        path.unlink()
        return math.nan
    with _beside_others(cfg, path.parent, hydra.job.num):
        outcome = run(cfg)
    dataclasses.replace(record, exit_status=outcome.exit_status, reason=outcome.reason).write(path)
    if outcome.exit_status == STOPPED_STATUS:
        _pass_on(outcome.signals)
    return outcome.fid


def _begin(cfg: DictConfig, overrides: list[str], path: Path) -> Record:
    """Leave a record that this run begins; a requeued one that has started over once goes on."""
    from gan_lab.config import load  # heavy, and not needed for --help

    try:
        directory = load(cfg).run_directory.absolute()
    except (UserError, LookupError, TypeError):  # the run will say what is wrong
        record = Record(overrides, pid=os.getpid())
    else:
        inode = directory.stat().st_ino if directory.exists() else None
        record = Record(overrides, str(directory), inode, os.getpid())
    if before := Record.read(path):
        cfg.fresh = cfg.fresh and before.inode == record.inode
        record = dataclasses.replace(record, inode=before.inode)
    record.write(path)
    return record


def _pass_on(signals: Sequence[int]) -> None:
    """After a run that signals have stopped: stop what launched it too, or have it launched again."""
    if _sweep is not None:
        raise Ended(STOPPED_STATUS)
    if not _in_submitit():
        return  # a parallel worker: the launching process sees to the rest
    try:
        for number in signals:  # the one that submitit has Slurm send makes it requeue the job
            signal.raise_signal(number)
    except Exception as error:  # so often that submitit gives up
        print(error, file=sys.stderr)
        return
    # Slurm may requeue the job for its own reasons. Without a result, whoever waits for it goes on waiting.
    raise Ended(STOPPED_STATUS)


def _in_submitit() -> bool:
    return "SUBMITIT_EXECUTOR" in os.environ


@functools.cache
def _parent() -> int:
    """The process that was this one's parent at its first run: a worker without it begins no other."""
    return os.getppid()


@contextmanager
def _beside_others(cfg: DictConfig, folder: Path, number: int) -> Iterator[None]:
    """In a process that is not the launching one: a command, a GPU and a place for the output of its own."""
    if _sweep is not None:
        yield
        return
    overrides = HydraConfig.get().overrides.task
    sys.argv = ["train.py", *overrides]  # which the run's last words name
    if _in_submitit():  # Slurm has seen to the rest
        yield
        return
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)  # between two runs; a worker that dies takes the others with it
    if cfg.device == "auto" and (device := _own_gpu(folder.parent)):
        cfg.device = device
    output = folder / "output.txt"
    print(f"#{number} begins, its output goes to {output}", flush=True)
    with ExitStack() as stack:
        file = stack.enter_context(output.open("a", encoding="utf-8"))
        stack.enter_context(redirect_stdout(file))
        stack.enter_context(redirect_stderr(file))
        yield
    print(f"#{number} ends", flush=True)


def _own_gpu(folder: Path) -> str | None:
    """The GPU for this worker, other than its neighbours'; None where there is no choice."""
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{_claim(folder) % count}" if count > 1 else None


@functools.cache
def _claim(folder: Path) -> int:
    """The least number that no other living process has claimed in this folder."""
    for number in itertools.count():
        descriptor = os.open(folder / f"worker{number}", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return number  # until the process ends and its descriptor with it
    raise AssertionError


# --- in the process that launches


_sweep: "Sweep | None" = None  # the one that this process launches


class SweepCallback(Callback):
    """Hydra's word that a sweep begins, in the process that launches it."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global _sweep
        for axis in ("launcher", "sweeper"):
            if extra := config.hydra[axis].get("needs"):
                choice = config.hydra.runtime.choices[f"hydra/{axis}"]
                message = f"hydra/{axis}={choice} needs a plugin: pip install 'gan-lab[{extra}]'"
                print(f"error: {message}", file=sys.stderr)
                raise Ended(WRONG_CONFIG)
        _sweep = Sweep(
            Path(config.hydra.sweep.dir).absolute(),
            Path(config.paths.outputs).absolute(),
            "submitit" in config.hydra.launcher._target_,
            _planned(config),
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _sweep.stop)


def _planned(config: DictConfig) -> list[list[str]]:
    """Each run's overrides in their order; none where the sweeper is not Hydra's own, which knows them."""
    if config.hydra.sweeper._target_.rpartition(".")[2] != BasicSweeper.__name__:
        return []
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*parameters, *config.hydra.overrides.task])
    return [run for batch in BasicSweeper.split_arguments(overrides, None) for run in batch]


@dataclass
class Sweep:
    """The sweep that this process launches: its folder, where its runs lie, and the overrides of each.

    `is_elsewhere` says that its runs live on when this process ends, as Slurm's jobs do.
    """

    folder: Path
    outputs: Path
    is_elsewhere: bool
    planned: list[list[str]]
    is_stopping: bool = False

    def records(self) -> dict[int, Record]:
        """What the runs that have begun say, by their numbers."""
        found = {int(path.parent.name): Record.read(path) for path in self.folder.glob(f"[0-9]*/{RECORD}")}
        return {number: record for number, record in sorted(found.items()) if record}

    def stop(self, number: int, frame: FrameType | None) -> None:
        """On a signal: end when the runs of parallel workers have written checkpoints; at once on another."""
        if self.is_stopping:
            raise Ended(STOPPED_STATUS)
        self.is_stopping = True
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / STOPPED).touch()
        if self._signal_workers():
            print("stopping when each run has written a checkpoint (Ctrl-C: at once)", file=sys.stderr)
        while self._signal_workers():
            time.sleep(0.5)
        raise Ended(STOPPED_STATUS)

    def _signal_workers(self) -> bool:
        """Ask the workers that train to stop; False where there is none. Asking them again does no harm."""
        workers = {child.pid for child in multiprocessing.active_children()}
        busy = {record.pid for record in self.records().values() if record.exit_status is None} & workers
        for pid in busy:
            os.kill(pid, signal.SIGTERM)
        return bool(busy)

    def close(self, status: int) -> int:
        """Print the table of all runs and what to do next, write the page; returns the worst exit status."""
        from gan_lab.report.progress import table

        if status == WRONG_CONFIG:  # Hydra's word, before the first run or in the middle
            if not self.records():
                return status
            status = EXIT_STATUS[FAILED]
        entries = self._entries()
        print(f"\n{table(entries)}\n")
        if status != STOPPED_STATUS:
            print(_page(self.outputs))
        for command, purpose in self._next(entries).items():
            print(f"next: {command}  # {purpose}")
        sys.stdout.flush()
        return max([status, *(_exit_status(entry.state) for entry in entries)])

    def _entries(self) -> list["Progress"]:
        from gan_lab.report.progress import ORDER

        records = self.records()
        overrides = dict(enumerate(self.planned)) | {n: record.overrides for n, record in records.items()}
        names = _names(overrides)
        entries = [self._entry(names[number], records.get(number)) for number in sorted(overrides)]
        return sorted(entries, key=lambda entry: ORDER.index(entry.state))

    def _entry(self, name: str, record: Record | None) -> "Progress":
        from gan_lab.report.progress import DEAD, QUEUED, REFUSED, WAITING, Progress, progress
        from gan_lab.report.runs import find

        if record is None:
            return Progress(name, QUEUED if self.is_elsewhere else WAITING)
        if record.exit_status == WRONG_CONFIG or record.directory is None:
            return Progress(name, REFUSED, reason=record.reason)
        directory = Path(record.directory)
        try:
            (entry,) = progress(*find(directory))
        except UserError:  # it ended before it wrote anything
            return Progress(name, WAITING)
        if entry.state == RUNNING and not self.is_elsewhere:
            entry = dataclasses.replace(entry, state=DEAD)
        inside = directory.is_relative_to(self.outputs)
        return dataclasses.replace(
            entry, name=str(directory.relative_to(self.outputs) if inside else directory)
        )

    def _next(self, entries: Sequence["Progress"]) -> dict[str, str]:
        """Commands for what is not finished, each with what it is for."""
        from gan_lab.report.progress import QUEUED

        commands = {}
        if any(entry.needs_person for entry in entries):
            typed = [argument for argument in sys.argv if not argument.startswith("fresh=")]
            commands[shlex.join(["python", *typed])] = "goes on with what is not finished"
        for entry in entries:
            if entry.state == FAILED:
                path = self.outputs / entry.name / "train.log"
                commands[f"less {shlex.quote(str(path))}"] = "why it failed"
        if self.is_elsewhere and any(entry.state in (QUEUED, RUNNING) for entry in entries):
            commands["squeue --me"] = "the jobs that Slurm still has; scancel <id> ends one"
        return commands


def _names(overrides: dict[int, list[str]]) -> dict[int, str]:
    """What tells each run from the others on the command line: `norm=sn seed=0`."""
    everywhere = set.intersection(*map(set, overrides.values())) if len(overrides) > 1 else set()
    return {n: " ".join(word for word in words if word not in everywhere) for n, words in overrides.items()}


def _exit_status(state: str) -> int:
    from gan_lab.report.progress import QUEUED, REFUSED, WAITING

    others = {REFUSED: WRONG_CONFIG, **dict.fromkeys((WAITING, QUEUED, RUNNING), STOPPED_STATUS)}
    return (EXIT_STATUS | others).get(state, EXIT_STATUS[FAILED])


def _page(outputs: Path) -> str:
    """Write the comparison of all runs in `outputs`; returns a sentence that says where, or why not."""
    try:
        from gan_lab.report import write_page

        return f"comparison of all runs in {outputs}: {write_page(outputs, outputs / 'report.html')}"
    except Exception as error:  # the runs are what counts
        return f"no comparison page: {' '.join(str(error).split())}"


def exit_status(main: Callable[[], object]) -> int:
    """Call Hydra's `main`; returns its run's exit status, or the worst of a sweep after the closing table."""
    try:
        main()
        status = 0
    except Ended as end:
        status = int(end.code or 0)
        if _sweep is None:
            return status
    except SystemExit as stop:
        # Hydra exits with 1 where it refuses the command line: the config is wrong.
        status = WRONG_CONFIG if stop.code == 1 else int(stop.code or 0)
    except KeyboardInterrupt:
        status = STOPPED_STATUS
    return status if _sweep is None else _sweep.close(status)
