"""A run's life: config -> build -> load -> train -> store, and what is said at its end."""

import dataclasses
import logging
import math
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

from gan_lab import build
from gan_lab.config import Config, load
from gan_lab.data import ImageArray
from gan_lab.device import hardware, pick_device, prepare_process
from gan_lab.distributed import collectives, env
from gan_lab.distributed.collectives import on_rank_zero, rank_zero_first
from gan_lab.errors import UserError, one_line
from gan_lab.metrics import Evaluator
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
from gan_lab.runs.store import GRID, Store, ended_before
from gan_lab.tracking import Tracker
from gan_lab.tracking.console import Console
from gan_lab.tracking.history import History
from gan_lab.tracking.jsonl import read
from gan_lab.training.divergence import Diverged
from gan_lab.training.gan import Gan
from gan_lab.training.loop import Interrupted, train
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
    """Train what `cfg` describes, or resume it where it was left; prints a summary, or what is wrong."""
    stop = StopRequest()
    try:
        with stop:
            config = load(cfg, env.world_size())
            with collectives.joined(config.device):
                outcome = _run(config, stop)
        return dataclasses.replace(outcome, signals=tuple(stop.received))
    except UserError as error:
        return _refusal(one_line(error))
    except OSError as error:  # before training, which has its own way to fail
        place = error.filename or "a file"
        return _refusal(f"{place} cannot be used ({error.strerror}): see to that and try again")
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoint", file=sys.stderr)
        return Outcome(EXIT_STATUS[INTERRUPTED], signals=tuple(stop.received))
    except collectives.RankFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return Outcome(EXIT_STATUS[FAILED])
    except Exception:  # a defect: shown whole, and the rest of a sweep continues
        if collectives.speaks():
            traceback.print_exc(file=sys.stderr if env.is_rank_zero() else sys.__stderr__)
        return Outcome(EXIT_STATUS[FAILED])


def _refusal(reason: str) -> Outcome:
    print(f"error: {reason}", file=sys.stderr)
    return Outcome(WRONG_CONFIG, reason=reason)


def _run(config: Config, stop: StopRequest) -> Outcome:
    """The life of a run, on every rank."""
    build.refuse_unknown_tracker_keys(config)
    directory = RunDirectory(config.run_directory)
    if outcome := _ended_before(directory, config):
        return outcome
    # Build everything first, so that configuration errors surface before anything is written.
    array, gan, evaluators = _parts(config)
    store = Store(directory, config.train.keep_every)
    with store.opened(config.fresh):
        state = store.load() or {}
        if state:
            _refuse_other_images(config, directory, state.get("images"), array.fingerprint)
            _resume(gan, state, directory)
            _name_other_hardware(directory, gan.device)
        start, device = gan.iteration, _devices(gan.device)
        ended, at_once = FAILED, False
        try:
            with stop.deferred():  # from here on a signal waits for the end of an iteration
                store.begin(
                    config.plain,
                    state,
                    lambda: _trackers(config, directory, start, gan.device, evaluators),
                    lambda: array.spread(GRID),
                    images=array.fingerprint,
                    seed=config.seed,
                    device=device,
                    **hardware(gan.device),
                )
                log.info("training in %s on %s from iteration %d", directory.root, device, start)
                ended = _train(config, gan, store, evaluators, stop)
        except KeyboardInterrupt:
            at_once = True
            raise
        finally:
            store.finish(ended, at_once)  # a signal stops what a tracker waits for
    if ended != FAILED:
        return on_rank_zero(_conclude)(directory, ended, store.history)
    # A rank may have failed without the others, and waits for none.
    if env.is_rank_zero():
        return _conclude(directory, ended, store.history)
    return Outcome(EXIT_STATUS[FAILED])


@on_rank_zero
def _ended_before(directory: RunDirectory, config: Config) -> Outcome | None:
    """How a run ended that needs no further training; None where there is something to do."""
    state = None if config.fresh else ended_before(directory, config.train.iterations)
    if state is None:
        return None
    trained_on = directory.read_status().get("images")
    if trained_on and not config.plain["dataset"].get("verify"):  # what was verified cannot have changed
        try:
            images = build.load_images(config).fingerprint
        except UserError:  # there are none any more, and the run is finished all the same
            images = trained_on
        _refuse_other_images(config, directory, trained_on, images)
    return _conclude(directory, state, History(read(directory.metrics)), was_before=True)


def _refuse_other_images(config: Config, directory: RunDirectory, trained_on: Any, images: str) -> None:
    """What a run was trained on is part of what it is."""
    if trained_on not in (None, images):
        raise UserError(
            f"the images of dataset={config.dataset.name} are not those that {directory.root} was trained on "
            "(where they lie makes no difference): give another dataset another dataset.name, or start over "
            "with fresh=true, which keeps the old run aside"
        )


@rank_zero_first
def _parts(config: Config) -> tuple[ImageArray, Gan, Sequence[Evaluator]]:
    """The images, and what trains and judges on them."""
    device = pick_device(config.device)
    prepare_process(device, config.train.tf32, config.train.compile)
    array = build.load_images(config)
    evaluators = build.build_evaluators(config, array, device)
    return array, build.build_gan(config, array, device), list(evaluators.values())


def _resume(gan: Gan, state: dict[str, Any], directory: RunDirectory) -> None:
    """Put the training into a checkpoint's state."""
    try:
        gan.load_state_dict(state)
        if min(int(state["iteration"]), int(state["record_length"])) < 0:
            raise ValueError("a negative iteration or length")
    except Exception as error:  # of another architecture or version, it can be wrong in any way
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)[:200]
        raise UserError(
            f"the checkpoints in {directory.checkpoints} do not fit this config ({reason}): "
            "start over with fresh=true, which keeps them aside"
        ) from error


@on_rank_zero
def _name_other_hardware(directory: RunDirectory, device: torch.device) -> None:
    """A run on several kinds of devices is one run to rounding, which nobody shall find out by comparing."""
    before, now = directory.read_status(), hardware(device)
    of_then = {key: before.get(key, "") for key in ("gpu", "driver", "cuda", "cudnn")}
    of_now = {key: now.get(key, "") for key in of_then}
    if before.get("device") and of_then != of_now:
        then, here = (" ".join(filter(None, one.values())) or "a CPU" for one in (of_then, of_now))
        log.warning(
            "trained on %s so far, and now on %s: the same run to rounding, not to the bit", then, here
        )


def _devices(device: torch.device) -> str:
    return str(device) if env.world_size() == 1 else f"{env.world_size()} × {device.type}"


def _trackers(
    config: Config,
    directory: RunDirectory,
    start: int,
    device: torch.device,
    evaluators: Sequence[Evaluator],
) -> list[Tracker]:
    """The terminal, and the tracker that the config names, which cannot stop the run; none if disabled."""
    lines = [f"computing on {build.execution_summary(config, device)}"]
    lines += [f"judging by {judge}" for judge in evaluators] or ["judging nothing (metrics=none)"]
    for line in lines:
        log.info(line)
        print(line, flush=True)
    tracker = build.build_tracker(config, directory.root, start)
    console = Console(start, config.train.iterations, bool(evaluators))  # last: its clock starts here
    return [tracker, console] if tracker else [console]


def _train(config: Config, gan: Gan, store: Store, evaluators: Sequence[Evaluator], stop: StopRequest) -> str:
    """Train, write the networks, keep the status true; returns the state in which the run ended."""

    def status(state: str, reason: str = "", **details: str | int) -> str:
        if env.is_rank_zero():
            store.write_status(state, gan.iteration, reason, **details)
        return state

    monitor = build.build_monitor(config, gan)
    try:
        on_rank_zero(status)(RUNNING)
        graphed = build.build_graphed(config, gan, monitor)
        with gan.drawing_ahead():
            train(gan, store, evaluators, build.build_intervals(config), monitor, stop.agreed, graphed)
        store.write_networks(gan.eval_generator.state_dict(), gan.discriminator.state_dict(), gan.iteration)
    except Interrupted as error:
        return status(INTERRUPTED, str(error))
    except Diverged as error:
        log.info("diverged: %s", error)
        return status(
            DIVERGED, str(error), diverged_at=error.iteration, quantity=error.quantity, layer=error.layer
        )
    except OSError as error:  # a full or broken disk: what was written before is whole
        reason = f"{error.strerror or error}: see to that and run the same command again"
        log.error("failed after iteration %d: %s", gan.iteration, reason)
        log.info("where it failed:", exc_info=True)
        return status(FAILED, reason)
    except KeyboardInterrupt:
        status(INTERRUPTED, "stopped at once, to resume from the last checkpoint")
        raise
    except BaseException as error:
        log.info("failed after iteration %d", gan.iteration, exc_info=True)
        status(FAILED, f"{type(error).__name__}: {error}")
        raise
    if monitor.diverged_by:
        return status(FINISHED, f"diverged by iteration {monitor.diverged_by}, and training continued")
    return status(FINISHED)


def _conclude(directory: RunDirectory, state: str, history: History, was_before: bool = False) -> Outcome:
    from gan_lab.report.summary import summary  # with all of the report, for which no first step waits

    print(summary(directory, state, history, was_before), flush=True)
    fid = math.nan if history.fid is None else history.fid
    return Outcome(EXIT_STATUS[state], math.inf if state == DIVERGED else fid)
