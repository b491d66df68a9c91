"""A run as one of many, in the process that trains it."""

import dataclasses
import functools
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gan_lab.distributed import env
from gan_lab.errors import UserError
from gan_lab.sweep import launcher
from gan_lab.sweep.record import Launch, Record

if TYPE_CHECKING:
    from gan_lab.run import Outcome


def job(run: Callable[[DictConfig], "Outcome"], cfg: DictConfig) -> float:
    """Train what `cfg` describes, as one run of a sweep; returns the FID for a sweeper to minimize.

    A single run raises Ended instead, with its exit status.
    """
    hydra = HydraConfig.get()
    if hydra.job.chdir:
        os.chdir(hydra.runtime.cwd)  # relative paths mean where the command was typed, or it were another run
    if hydra.mode != RunMode.MULTIRUN:
        raise launcher.Ended(run(cfg).exit_status)
    if env.rank():  # one of several ranks: the first leaves the record
        return run(cfg).fid
    launch = Launch.of_this_run()
    path = launch.record(hydra.job.num)
    record = _begin(cfg, list(hydra.overrides.task), path)
    if launch.is_stopped or os.getppid() != _parent():
        path.unlink()
        return math.nan
    with _among_others(cfg, launch, Path(hydra.runtime.output_dir), hydra.job.num):
        outcome = run(cfg)
    dataclasses.replace(record, exit_status=outcome.exit_status, reason=outcome.reason).write(path)
    if outcome.exit_status == launcher.STOPPED_STATUS:
        _pass_on(outcome.signals)
    return outcome.fid


def _begin(cfg: DictConfig, overrides: list[str], path: Path) -> Record:
    """Leave a record that this run begins; a requeued one that has started over once resumes."""
    record = Record(overrides, pid=os.getpid())
    if directory := _run_directory(cfg):
        inode = directory.stat().st_ino if directory.exists() else None
        record = dataclasses.replace(record, directory=str(directory), inode=inode)
    if before := Record.read(path):
        cfg.fresh = cfg.fresh and before.inode == record.inode
        record = dataclasses.replace(record, inode=before.inode)
    record.write(path)
    return record


def _run_directory(cfg: DictConfig) -> Path | None:
    from gan_lab.config import load  # heavy, and not needed for --help

    try:
        return load(cfg, env.world_size()).run_directory.absolute()
    except UserError:  # the run will say what is wrong
        return None


def _pass_on(signals: Sequence[int]) -> None:
    """After a run that signals have stopped: stop what launched it too, or have it launched again."""
    if launcher.is_this_process():
        raise launcher.Ended(launcher.STOPPED_STATUS)
    if not _in_submitit():
        return  # a parallel worker: the launching process sees to the rest
    try:
        for number in signals:  # the one that submitit has Slurm send makes it requeue the job
            signal.raise_signal(number)
    except Exception as error:  # so often that submitit gives up
        print(error, file=sys.stderr)
        return
    # Slurm may requeue the job for its own reasons. Without a result, whoever waits for it waits on.
    raise launcher.Ended(launcher.STOPPED_STATUS)


def _in_submitit() -> bool:
    return "SUBMITIT_EXECUTOR" in os.environ


@functools.cache
def _parent() -> int:
    """The process that was this one's parent at its first run: a worker without it begins no other."""
    return os.getppid()


@contextmanager
def _among_others(cfg: DictConfig, launch: Launch, folder: Path, number: int) -> Iterator[None]:
    """In a process that is not the launching one: a command, a GPU and a place for the output of its own."""
    if launcher.is_this_process():
        yield
        return
    sys.argv = ["train.py", *HydraConfig.get().overrides.task]  # which the run's last words name
    if _in_submitit():  # Slurm has seen to the rest
        yield
        return
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)  # between two runs; a worker that dies takes the others with it
    if cfg.device == "auto" and (device := _own_gpu(launch)):
        cfg.device = device
    output = folder / "output.txt"
    print(f"#{number} begins, its output goes to {output}", flush=True)
    with ExitStack() as stack:
        file = stack.enter_context(output.open("a", encoding="utf-8"))
        stack.enter_context(redirect_stdout(file))
        stack.enter_context(redirect_stderr(file))
        yield
    print(f"#{number} ends", flush=True)


def _own_gpu(launch: Launch) -> str | None:
    """The GPU for this worker, other than its neighbours'; None where there is no choice."""
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{launch.claim() % count}" if count > 1 else None
