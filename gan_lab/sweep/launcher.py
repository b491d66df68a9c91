"""The process that launches: Hydra's word that a sweep begins, signals, and the exit status of `train.py`."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from gan_lab import presets, shell
from gan_lab.runs.directory import WRONG_CONFIG
from gan_lab.signals import StopSignals
from gan_lab.sweep import arguments, plugins
from gan_lab.sweep.closing import STOPPED_STATUS, Sweep
from gan_lab.sweep.record import VARIABLE, Launch

presets.register()  # before Hydra composes anything
plugins.register_missing()

_sweep: Sweep | None = None  # the one that this process launches
_signals = StopSignals()


class Ended(SystemExit):
    """A run's or a sweep's own exit status, unlike the 1 with which Hydra refuses a command line."""


def is_this_process() -> bool:
    """Whether this is the process that launches, and not one that was launched."""
    return _sweep is not None


class SweepCallback(Callback):
    """Hydra's word that a sweep begins, in the process that launches it."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global _sweep
        if sentence := plugins.missing(config):
            print(f"error: {sentence}", file=sys.stderr)
            raise Ended(WRONG_CONFIG)
        launch = Launch.begin(Path(config.hydra.sweep.dir))
        _tell_runs(config, launch)
        jobs = config.hydra.launcher.get("submitit_folder")
        _sweep = Sweep(
            launch,
            Path(config.paths.outputs).absolute(),
            _planned(config),
            Path(jobs.partition("%")[0]).absolute() if jobs else None,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)


def _tell_runs(config: DictConfig, launch: Launch) -> None:
    """Have Hydra set the variable for each run, in whichever process and on whichever host."""
    override = f"++hydra.job.env_set.{VARIABLE}={shell.quoted(str(launch.folder))}"
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.overrides.hydra.append(override)


def _planned(config: DictConfig) -> list[list[str]]:
    """Each run's overrides in their order; none where the sweeper is not Hydra's own, which knows them."""
    if config.hydra.sweeper._target_.rpartition(".")[2] != BasicSweeper.__name__:
        return []
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    try:
        overrides = parser.parse_overrides([*parameters, *config.hydra.overrides.task])
        return [run for batch in BasicSweeper.split_arguments(overrides, None) for run in batch]
    except HydraException:  # the sweeper will say what is wrong
        return []


def _stop(number: int, frame: FrameType | None) -> None:
    """On a signal: end when the runs of parallel workers have written checkpoints; at once on another.

    Runs that live elsewhere are left to it: only the line that waits for them ends.
    """
    assert _sweep is not None
    if not (wish := _signals.wish()):
        return
    if wish > 1 or _sweep.jobs:
        raise Ended(STOPPED_STATUS)
    _sweep.launch.stop()
    if _signal_workers(_sweep.launch):
        print("stopping when each run has written a checkpoint (Ctrl-C: at once)", file=sys.stderr)
    while _signal_workers(_sweep.launch):
        time.sleep(0.5)
    raise Ended(STOPPED_STATUS)


def _signal_workers(launch: Launch) -> bool:
    """Ask the workers that train to stop; False where there is none. Asking them again does no harm."""
    workers = {child.pid for child in multiprocessing.active_children()}
    busy = {record.pid for record in launch.records().values() if record.exit_status is None} & workers
    for pid in busy:
        os.kill(pid, signal.SIGTERM)
    return bool(busy)


def exit_status(main: Callable[[], object]) -> int:
    """Call Hydra's `main`; returns its run's exit status, or the worst of a sweep after the closing table."""
    typed = sys.argv[1:]
    if sentence := arguments.unreadable(typed) or arguments.misses_a_choice(typed, presets.axes()):
        print(f"error: {sentence}", file=sys.stderr)
        return WRONG_CONFIG
    status = _status(main)
    if _sweep is not None:
        status = _sweep.close(status)
    return status


def _status(main: Callable[[], object]) -> int:
    try:
        main()
    except Ended as end:
        return int(end.code or 0)
    except SystemExit as stop:
        if stop.code != 1:
            return int(stop.code or 0)
        # Hydra has refused the command line: the config is wrong.
        if sentence := arguments.misspelt(sys.argv[1:]):
            print(f"error: {sentence}", file=sys.stderr)
        return WRONG_CONFIG
    except KeyboardInterrupt:
        return STOPPED_STATUS
    return 0
