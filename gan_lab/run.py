"""From a composed config to a finished run: builds the parts and hands them to the trainer."""

import contextlib
import dataclasses
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from gan_lab import build
from gan_lab.config import check, resolved, run_directory, run_id, split
from gan_lab.device import pick_device, prepare_process
from gan_lab.distributed import collectives, env
from gan_lab.errors import UserError
from gan_lab.metrics import Evaluator
from gan_lab.report.summary import FID_NAMES, extremes, summary
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import (
    DIVERGED,
    EXIT_STATUS,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    WRONG_CONFIG,
    RunDirectory,
)
from gan_lab.runs.lock import RunLock
from gan_lab.tracking import Guarded, JsonLines, Tracker, Trackers
from gan_lab.tracking.base import RunInfo
from gan_lab.tracking.console import Console
from gan_lab.tracking.jsonl import read
from gan_lab.training import Diverged, Interrupted, Trainer
from gan_lab.training.stopping import StopRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended, for whoever launched it.

    `fid` is what a sweeper minimizes: the last one, infinite where the run diverged, NaN where there is none.
    `reason` says what was wrong with the config or the data; `signals` are those that stopped the run.
    """

    exit_status: int
    fid: float = math.nan
    reason: str = ""
    signals: tuple[int, ...] = ()


def run(cfg: DictConfig) -> Outcome:
    """Train what `cfg` describes, or go on where it was left; prints a summary, or what is wrong."""
    stop = StopRequest()
    try:
        with stop:
            config = resolved(cfg)
            check(config)
            config = split(config, env.world_size())
            with collectives.joined(config["device"]):
                outcome = _run(config, stop)
        return dataclasses.replace(outcome, signals=tuple(stop.received))
    except UserError as error:
        return _refusal(_one_line(error))
    except OSError as error:  # before training, which has its own way to fail
        place = error.filename or "a file"
        return _refusal(f"{place} cannot be used ({error.strerror}): see to that and try again")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return Outcome(EXIT_STATUS[INTERRUPTED], signals=tuple(stop.received))
    except collectives.RankFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return Outcome(EXIT_STATUS[FAILED])
    except Exception:  # a defect: shown whole, and the rest of a sweep goes on
        if collectives.speaks():
            traceback.print_exc(file=sys.__stderr__ if env.rank() else sys.stderr)
        return Outcome(EXIT_STATUS[FAILED])


def _refusal(reason: str) -> Outcome:
    print(f"error: {reason}", file=sys.stderr)
    return Outcome(WRONG_CONFIG, reason=reason)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _run(config: dict[str, Any], stop: StopRequest) -> Outcome:
    """A run's life, on every rank; what the first does alone, the others wait for."""
    directory = RunDirectory(run_directory(config))
    if ended := collectives.on_rank_zero(lambda: _ended_before(directory, config))():
        print(summary(directory, ended, was_before=True))
        return _outcome(directory, ended)

    # Everything that can be refused is built before the run directory is touched.
    device, make_trainer, evaluator = collectives.rank_zero_first(_parts)(config)

    with contextlib.ExitStack() as held:
        collectives.on_rank_zero(lambda: held.enter_context(_opened(directory, config["fresh"])))()
        record: JsonLines
        outlets: list[Tracker] = []
        sinks = Trackers(outlets)
        trainer = make_trainer(
            sink=sinks,
            evaluate=evaluator.evaluate if evaluator else None,
            samples=directory.samples,
            checkpoints=directory.checkpoints,
            record_length=lambda: record.length(),
            stop_requested=stop.agreed,
        )
        state = collectives.on_rank_zero(lambda: checkpoint.load_newest(directory.checkpoints))()
        record_length = _restore(trainer, state, directory) if state else 0

        # From here on the directory is this run's to change, and signals wait for the end of an iteration.
        with stop.deferred():
            start = trainer.iteration

            def open_record() -> None:
                nonlocal record
                record = JsonLines(directory.metrics, record_length)
                directory.remove_litter()
                directory.write_config(config)
                if record.length() < record_length:
                    log.warning("lines are missing from %s, and stay so", directory.metrics)
                how = build.execution_summary(config, device)
                log.info("computing on %s", how)
                with contextlib.suppress(OSError):  # nobody may be listening
                    print(how, flush=True)
                console = Console(start, config["train"]["iterations"])
                outlets.extend([record, console, *_tracker(config, directory, start)])

            collectives.on_rank_zero(open_record)()
            ended = FAILED
            try:
                ended = _train(trainer, directory, config["seed"], device)
            except KeyboardInterrupt:
                outlets[:] = outlets[:1]  # a second Ctrl-C waits for no other tracker
                raise
            finally:
                sinks.finish(ended)
    if ended == FAILED and not env.is_rank_zero():
        return Outcome(EXIT_STATUS[FAILED])  # the first may have failed alone, and waits for nobody

    def conclude() -> Outcome:
        with contextlib.suppress(OSError):  # a closed terminal takes nothing from a finished run
            print(summary(directory, ended), flush=True)
        return _outcome(directory, ended)

    return conclude() if ended == FAILED else collectives.on_rank_zero(conclude)()


def _parts(config: dict[str, Any]) -> tuple[torch.device, Callable[..., Trainer], Evaluator | None]:
    device = pick_device(config["device"])
    prepare_process(config["train"]["tf32"], config["train"]["compile"])
    array = build.load_images(config)
    make_trainer = build.build_trainer(config, array, device)
    return device, make_trainer, build.build_evaluator(config, array, device)


@contextlib.contextmanager
def _opened(directory: RunDirectory, fresh: bool) -> Iterator[None]:
    """The run directory, made or found, for this process alone; the log is set up."""
    if fresh and directory.root.exists():
        with RunLock(directory.lock):
            directory.set_aside()
    directory.create()
    with RunLock(directory.lock), _logging_to(directory.log):
        yield


def _train(trainer: Trainer, directory: RunDirectory, seed: int, device: torch.device) -> str:
    """Train, write the generator, keep the status true; returns the state in which the run ended."""

    count = env.world_size()
    devices = str(device) if count == 1 else f"{count} × {device.type}"

    def status(state: str, reason: str = "", **details: str | int) -> str:
        if env.is_rank_zero():
            details |= _slurm_job()
            directory.write_status(state, trainer.iteration, reason, seed, devices, **details)
        return state

    log.info("training in %s on %s from iteration %d", directory.root, devices, trainer.iteration)
    try:
        collectives.on_rank_zero(lambda: status(RUNNING))()
        trainer.train()
        collectives.on_rank_zero(lambda: trainer.write_generator(directory.generator))()
    except Interrupted as error:
        return status(INTERRUPTED, str(error))
    except Diverged as error:
        log.info("diverged: %s", error)
        return status(
            DIVERGED, str(error), diverged_at=error.iteration, quantity=error.quantity, layer=error.layer
        )
    except OSError as error:  # a full or broken disk: what was written before is whole
        reason = f"{error.strerror or error}: see to that and run the same command again"
        log.error("failed after iteration %d: %s", trainer.iteration, reason)
        log.info("where it failed:", exc_info=True)
        return status(FAILED, reason)
    except KeyboardInterrupt:
        status(INTERRUPTED, "stopped at once, to go on from the last checkpoint")
        raise
    except BaseException as error:
        log.info("failed after iteration %d", trainer.iteration, exc_info=True)
        status(FAILED, f"{type(error).__name__}: {error}")
        raise
    if trainer.bad_since:
        return status(FINISHED, f"diverged by iteration {trainer.bad_since}, and went on all the same")
    return status(FINISHED)


def _slurm_job() -> dict[str, str]:
    """The Slurm job that this is, as `squeue` names it; empty outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
    return {"slurm_job": job} if job else {}


def _ended_before(directory: RunDirectory, config: dict[str, Any]) -> str | None:
    """The state of a run that needs no further training; None where there is something to do."""
    if config["fresh"]:
        return None
    if directory.config.exists():
        directory.read_config()  # refuses a run of another version
    iterations = config["train"]["iterations"]
    status = directory.read_status()
    state = status.get("state")
    if state == DIVERGED or (state == FINISHED and status.get("iteration", 0) >= iterations):
        return state
    return None


def _outcome(directory: RunDirectory, state: str) -> Outcome:
    rows = list(read(directory.metrics))
    last = [extremes(rows, name)["last"] for name in FID_NAMES]
    fid = next((fid for fid in last if fid is not None), math.nan)
    return Outcome(EXIT_STATUS[state], math.inf if state == DIVERGED else fid)


def _tracker(config: dict[str, Any], directory: RunDirectory, start: int) -> list[Tracker]:
    """The tracker that the config names beside the local record, unable to stop the run; none if disabled."""
    node = config["tracker"]
    if node["mode"] == "disabled":
        return []
    unique = f"{config['dataset']['name']}-{run_id(config)}-{config['seed']}"
    display = "/".join(directory.root.parts[-4:])
    info = RunInfo(directory.root, unique, display, config, start)
    return [Guarded(node["name"], lambda: build.build(node, "tracker", run=info))]


def _restore(trainer: Trainer, state: dict[str, Any], directory: RunDirectory) -> int:
    """Put the trainer into a checkpoint's state; returns the bytes of metrics.jsonl that belong to it."""
    try:
        trainer.load_checkpoint(state)
        iteration, record_length = int(state["iteration"]), int(state["record_length"])
        if min(iteration, record_length) < 0:
            raise ValueError("a negative iteration or length")
    except Exception as error:  # of another architecture or version, it can be wrong in any way
        reason = f"no {error}" if isinstance(error, KeyError) else _one_line(error)[:200]
        raise UserError(
            f"the checkpoints in {directory.checkpoints} do not fit this config ({reason}): "
            "start over with fresh=true, which keeps them aside"
        ) from error
    return record_length


class _LogFile(logging.FileHandler):
    """A log that a full disk silences, where it would print a traceback for each line it cannot write."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Everything to the run's log, warnings to the terminal too."""
    file, terminal = _LogFile(path, encoding="utf-8"), logging.StreamHandler()
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    terminal.setLevel(logging.WARNING)
    logger = logging.getLogger("gan_lab")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(file)
    logger.addHandler(terminal)
    try:
        yield
    finally:
        logger.removeHandler(file)
        logger.removeHandler(terminal)
        file.close()
