"""From a composed config to a finished run: builds the parts and hands them to the trainer."""

import contextlib
import logging
import math
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from gan_lab import parts
from gan_lab.config import check, resolved, run_directory, run_id
from gan_lab.errors import UserError
from gan_lab.lock import RunLock
from gan_lab.report.summary import FID_NAMES, extremes, summary
from gan_lab.run_directory import DIVERGED, FAILED, FINISHED, INTERRUPTED, RUNNING, RunDirectory
from gan_lab.tracking import Guarded, JsonLines, Tracker, Trackers
from gan_lab.tracking.base import RunInfo
from gan_lab.tracking.console import Console
from gan_lab.training import Diverged, Interrupted, Trainer, checkpoint
from gan_lab.training.stopping import StopRequest

log = logging.getLogger(__name__)

EXIT_STATUS = {FINISHED: 0, FAILED: 1, DIVERGED: 3, INTERRUPTED: 4}
WRONG_CONFIG = 2


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit status, and its last FID (NaN if none), which a sweeper minimizes."""

    exit_status: int
    fid: float = math.nan


def run(cfg: DictConfig) -> Outcome:
    """Train what `cfg` describes, or go on where it was left; prints a summary, or what is wrong."""
    try:
        with StopRequest() as stop:
            return _run(resolved(cfg), stop)
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return Outcome(WRONG_CONFIG)
    except OSError as error:  # before training, which has its own way to fail
        place = error.filename or "a file"
        print(f"error: {place} cannot be used ({error.strerror}): see to that and try again", file=sys.stderr)
        return Outcome(WRONG_CONFIG)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return Outcome(EXIT_STATUS[INTERRUPTED])
    except Exception:  # a defect: shown whole, and the rest of a sweep goes on
        traceback.print_exc()
        return Outcome(EXIT_STATUS[FAILED])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _run(config: dict[str, Any], stop: StopRequest) -> Outcome:
    check(config)
    directory = RunDirectory(run_directory(config))
    if directory.config.exists() and not config["fresh"]:
        directory.read_config()  # refuses a run of another version
    if not config["fresh"] and (ended := _ended_before(directory, config["train"]["iterations"])):
        print(summary(directory, ended, was_before=True))
        return _outcome(directory, ended)

    # Everything that can be refused is built before the run directory is touched.
    device = parts.pick_device(config["device"])
    parts.make_deterministic()
    array = parts.load_images(config)
    make_trainer = parts.build_trainer(config, array, device)
    evaluator = parts.build_evaluator(config, array, device)

    with _opened(directory, config["fresh"]):
        record: JsonLines
        outlets: list[Tracker] = []
        sinks = Trackers(outlets)
        trainer = make_trainer(
            sink=sinks,
            evaluate=evaluator.evaluate if evaluator else None,
            samples=directory.samples,
            checkpoints=directory.checkpoints,
            record_length=lambda: record.length(),
            stop_requested=lambda: stop.signal_name,
        )
        state = checkpoint.load_newest(directory.checkpoints)
        record_length = _restore(trainer, state, directory) if state else 0

        # From here on the directory is this run's to change, and signals wait for the end of an iteration.
        with stop.deferred():
            record = JsonLines(directory.metrics, record_length)
            directory.remove_litter()
            directory.write_config(config)
            if record.length() < record_length:
                log.warning("lines are missing from %s, and stay so", directory.metrics)
            start = trainer.iteration
            outlets += [
                record,
                Console(start, config["train"]["iterations"]),
                *_tracker(config, directory, start),
            ]
            ended = FAILED
            try:
                ended = _train(trainer, directory, config["seed"], device)
            except KeyboardInterrupt:
                outlets[:] = [record]  # a second Ctrl-C waits for no other tracker
                raise
            finally:
                sinks.finish(ended)
    with contextlib.suppress(OSError):  # a closed terminal takes nothing from a finished run
        print(summary(directory, ended), flush=True)
    return _outcome(directory, ended)


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

    def status(state: str, reason: str = "", **details: str | int) -> str:
        directory.write_status(state, trainer.iteration, reason, seed, str(device), **details)
        return state

    log.info("training in %s on %s from iteration %d", directory.root, device, trainer.iteration)
    try:
        status(RUNNING)
        trainer.train()
        trainer.write_generator(directory.generator)
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


def _ended_before(directory: RunDirectory, iterations: int) -> str | None:
    """The state of a run that needs no further training; None where there is something to do."""
    status = directory.read_status()
    state = status.get("state")
    if state == DIVERGED or (state == FINISHED and status.get("iteration", 0) >= iterations):
        return state
    return None


def _outcome(directory: RunDirectory, state: str) -> Outcome:
    last = [extremes(directory.metrics, name)["last"] for name in FID_NAMES]
    return Outcome(EXIT_STATUS[state], next((fid for fid in last if fid is not None), math.nan))


def _tracker(config: dict[str, Any], directory: RunDirectory, start: int) -> list[Tracker]:
    """The tracker that the config names beside the local record, unable to stop the run; none if disabled."""
    node = config["tracker"]
    if node["mode"] == "disabled":
        return []
    unique = f"{config['dataset']['name']}-{run_id(config)}-{config['seed']}"
    display = "/".join(directory.root.parts[-4:])
    info = RunInfo(directory.root, unique, display, config, start)
    return [Guarded(node["name"], lambda: parts.build(node, "tracker", run=info))]


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
