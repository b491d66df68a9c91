"""From a composed config to a finished run: builds the parts and hands them to the trainer."""

import contextlib
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
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from gan_lab import norms
from gan_lab.config import check, resolved, run_directory, run_id
from gan_lab.data import Batches, ImageArray
from gan_lab.errors import UserError
from gan_lab.lock import RunLock
from gan_lab.metrics import METRICS, Evaluator, Protocol
from gan_lab.metrics.extractors import create as create_extractor
from gan_lab.report.summary import FID_NAMES, extremes, summary
from gan_lab.run_directory import DIVERGED, FAILED, FINISHED, INTERRUPTED, RUNNING, RunDirectory
from gan_lab.streams import stream
from gan_lab.tracking import Guarded, JsonLines, Tracker, Trackers
from gan_lab.tracking.base import RunInfo
from gan_lab.tracking.console import Console
from gan_lab.training import Diverged, Interrupted, Schedule, Trainer, checkpoint
from gan_lab.training.ema import ExponentialMovingAverage
from gan_lab.training.stopping import StopRequest

log = logging.getLogger(__name__)

EXIT_STATUS = {FINISHED: 0, FAILED: 1, DIVERGED: 3, INTERRUPTED: 4}
WRONG_CONFIG = 2


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit status, and its last FID (NaN where there is none) for a sweeper to minimize."""

    exit_status: int
    fid: float = math.nan


def run(cfg: DictConfig) -> Outcome:
    """Train what `cfg` describes, or go on where it was left; prints a summary, or one sentence on what is wrong."""
    try:
        return _run(resolved(cfg))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return Outcome(WRONG_CONFIG)
    except Exception:  # a defect: shown whole, and the rest of a sweep goes on
        traceback.print_exc()
        return Outcome(EXIT_STATUS[FAILED])


def _run(config: dict[str, Any]) -> Outcome:
    check(config)
    directory = RunDirectory(run_directory(config))
    if not config["fresh"] and (ended := _ended_before(directory, config["train"]["iterations"])):
        print(summary(directory, ended, was_before=True))
        return _outcome(directory, ended)

    # Everything that can be refused is built before the run directory is touched.
    device = pick_device(config["device"])
    _make_deterministic()
    data = Path(config["paths"]["data"])
    array = load_images(config, data)
    generator, discriminator = build_networks(config, device)
    g_optimizer = build(config["optimizer"]["generator"], "optimizer", generator.parameters())
    d_optimizer = build(config["optimizer"]["discriminator"], "optimizer", discriminator.parameters())
    ema_decay = config["train"]["ema"]
    loss = build(config["loss"], "loss")
    penalty = build(config["penalty"], "penalty") if config["penalty"]["_target_"] else None
    evaluator = build_evaluator(config, array, data, device)
    batches = Batches(array.images, config["train"]["batch_size"], config["seed"], device)

    with _opened(directory, config) as stop:
        state = checkpoint.load_newest(directory.checkpoints)
        start = state["iteration"] if state else 0
        record = JsonLines(directory.metrics, state["record_length"] if state else 0)
        sinks = Trackers(
            [record, Console(start, config["train"]["iterations"]), *_tracker(config, directory, start)]
        )
        trainer = Trainer(
            generator=generator,
            discriminator=discriminator,
            loss=loss,
            penalty=penalty,
            g_optimizer=g_optimizer,
            d_optimizer=d_optimizer,
            decays=_decays(config, {"g_decay": g_optimizer, "d_decay": d_optimizer}),
            ema=ExponentialMovingAverage(generator, ema_decay) if ema_decay else None,
            batches=batches,
            g_batch_size=config["train"]["g_batch_size"],
            latent_dim=config["arch"]["latent_dim"],
            seed=config["seed"],
            schedule=_schedule(config),
            sink=sinks,
            evaluate=evaluator.evaluate if evaluator else None,
            samples=directory.samples,
            checkpoints=directory.checkpoints,
            record_length=record.length,
            stop_requested=lambda: stop.signal_name,
        )
        if state:
            _restore(trainer, state, directory)
        ended = _train(trainer, directory, config["seed"], device)
        sinks.finish(ended)
    print(summary(directory, ended))
    return _outcome(directory, ended)


@contextlib.contextmanager
def _opened(directory: RunDirectory, config: dict[str, Any]) -> Iterator[StopRequest]:
    """The run directory, made or found, for this process alone; the log and the signals are set up."""
    if config["fresh"] and directory.root.exists():
        with RunLock(directory.lock):
            directory.set_aside()
    directory.create()
    with RunLock(directory.lock), _logging_to(directory.log), StopRequest() as stop:
        directory.write_config(config)
        yield stop


def _train(trainer: Trainer, directory: RunDirectory, seed: int, device: torch.device) -> str:
    """Train, write the generator, keep the status true all along; returns the state in which the run ended."""

    def status(state: str, reason: str = "", **details: str | int) -> str:
        directory.write_status(state, trainer.iteration, reason, seed, str(device), **details)
        return state

    status(RUNNING)
    log.info("training in %s on %s from iteration %d", directory.root, device, trainer.iteration)
    try:
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
        log.exception("failed after iteration %d", trainer.iteration)
        return status(FAILED, f"{error.strerror or error} (then run the same command again)")
    except BaseException as error:
        log.exception("failed after iteration %d", trainer.iteration)
        status(FAILED, f"{type(error).__name__}: {error}")
        raise
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


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a GPU where there is one. Raises UserError where it is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name} cannot be used here ({reason}): take device=auto") from error
    return torch.device(name)


def _make_deterministic() -> None:
    """The same seed shall give the same run, bit for bit, on one machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition for determinism
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def factory(node: dict[str, Any], axis: str) -> Callable[..., Any]:
    """What a config node's `_target_` names, its other keys bound; raises UserError naming the axis."""
    node = {key: value for key, value in node.items() if key != "name"}
    try:
        return instantiate({**node, "_partial_": True}, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"the config of {axis} is wrong: {_one_line(error.__cause__ or error)}") from error


def build(node: dict[str, Any], axis: str, *arguments: Any, **named: Any) -> Any:
    """Call what a config node names; raises UserError naming the axis where it refuses its arguments."""
    make = factory(node, axis)
    try:
        return make(*arguments, **named)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the config of {axis} does not fit {node['_target_']}: {_one_line(error)}"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def load_images(config: dict[str, Any], data: Path) -> ImageArray:
    """The dataset's prepared array, made on first use."""
    return build(config["dataset"]["prepare"], "dataset", root=data)


def build_networks(config: dict[str, Any], device: torch.device) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator, initialized and normalized: a function of the config and its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(config["seed"], "networks").initial_seed())
        generator = build(config["arch"]["generator"], "arch")
        discriminator = build(config["arch"]["discriminator"], "arch")
        build(config["init"]["generator"], "init", generator)
        build(config["init"]["discriminator"], "init", discriminator)
        layout = torch.channels_last if config["train"]["channels_last"] else torch.contiguous_format
        for network in (generator, discriminator):
            network.to(device, memory_format=layout)
        _normalize(config, generator, discriminator, device)
    return generator, discriminator


def example_inputs(config: dict[str, Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Latents `[1, latent_dim]` and an image `[1, 3, H, W]` of the sizes that the networks take."""
    size = config["dataset"]["image_size"]
    return (
        torch.zeros(1, config["arch"]["latent_dim"], device=device),
        torch.zeros(1, 3, size, size, device=device),
    )


def _normalize(
    config: dict[str, Any], generator: nn.Module, discriminator: nn.Module, device: torch.device
) -> None:
    norm = config["norm"]
    if not norm["estimator"]:
        return
    latents, image = example_inputs(config, device)
    for target, network, example in (
        ("generator", generator, latents),
        ("discriminator", discriminator, image),
    ):
        if norm["target"] not in (target, "both"):
            continue
        try:
            norms.normalize(
                network,
                factory(norm["estimator"], "norm"),
                scale=norm["scale"],
                gamma=norm["gamma"],
                n_power_iterations=norm["n_power_iterations"],
                warmup_iterations=norm["warmup_iterations"],
                example_input=example,
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"norm={norm['name']} does not fit the {target}: {_one_line(error)}") from error


def build_evaluator(
    config: dict[str, Any], array: ImageArray, data: Path, device: torch.device
) -> Evaluator | None:
    """The judge that `metrics` describes; None for metrics=none."""
    metrics = config["metrics"]
    if not metrics.get("extractor"):
        return None
    weights = Path(metrics["weights"]) if metrics["weights"] else None
    return Evaluator(
        create_extractor(metrics["extractor"], data, weights, device),
        array,
        data / "cache",
        Protocol(
            num_generated=metrics["num_generated"],
            num_fid=metrics["num_fid"],
            num_real=metrics["num_real"],
            num_kid_prc=metrics["num_kid_prc"],
            is_splits=metrics["is_splits"],
            kid_subset_size=metrics["kid_subset_size"],
            metrics=tuple(name for name in METRICS if metrics[name]),
            suffix=metrics["suffix"],
        ),
        metrics["batch_size"],
    )


def _decays(config: dict[str, Any], optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, LambdaLR]:
    """The schedules of the learning rates: none, or linearly to zero after the last iteration."""
    if config["optimizer"]["decay"] == "none":
        return {}
    iterations = config["train"]["iterations"]
    return {
        name: LambdaLR(optimizer, lambda done: 1 - done / iterations)
        for name, optimizer in optimizers.items()
    }


def _schedule(config: dict[str, Any]) -> Schedule:
    train = config["train"]
    return Schedule(
        iterations=train["iterations"],
        n_dis=config["optimizer"]["n_dis"],
        log_every=train["log_every"],
        probe_every=config["probes"]["every"],
        audit_every=config["probes"]["audit_every"],
        sample_every=train["sample_every"],
        evaluate_every=train["evaluate_every"],
        checkpoint_every=train["checkpoint_every"],
        keep_every=train["keep_every"],
        max_score=train["max_score"],
        stop_on_divergence=train["on_divergence"] == "stop",
    )


def _tracker(config: dict[str, Any], directory: RunDirectory, start: int) -> list[Tracker]:
    """The tracker that the config names beside the local record, unable to stop the run; none if disabled."""
    node = config["tracker"]
    if node["mode"] == "disabled":
        return []
    unique = f"{config['dataset']['name']}-{run_id(config)}-{config['seed']}"
    display = "/".join(directory.root.parts[-4:])
    info = RunInfo(directory.root, unique, display, config, start)
    return [Guarded(node["name"], lambda: build(node, "tracker", run=info))]


def _restore(trainer: Trainer, state: dict[str, Any], directory: RunDirectory) -> None:
    try:
        trainer.load_checkpoint(state)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the checkpoints in {directory.checkpoints} do not fit this config ({reason}): "
            "start over with fresh=true, which keeps them aside"
        ) from error
    log.info("resumed from iteration %d", trainer.iteration)


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Everything to the run's log, warnings to the terminal too."""
    file, terminal = logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler()
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
