"""Each part of a run, from its node of the config."""

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from gan_lab import norms
from gan_lab.config import Config, JudgeConfig
from gan_lab.data import Batches, ImageArray
from gan_lab.distributed import env
from gan_lab.distributed.batch_norm import synchronize
from gan_lab.errors import UserError, one_line
from gan_lab.metrics import Evaluator
from gan_lab.rng import stream
from gan_lab.tracking import Guarded, Tracker
from gan_lab.tracking.base import RunInfo, display_name
from gan_lab.training.divergence import DivergenceMonitor
from gan_lab.training.ema import ExponentialMovingAverage
from gan_lab.training.forward import Execution, needs_labels, scores_are_per_sample
from gan_lab.training.gan import Gan
from gan_lab.training.graph import CudaGraphs, GraphedUpdate
from gan_lab.training.loop import Intervals
from gan_lab.training.memory import make_capturable

log = logging.getLogger(__name__)


def execution_summary(config: Config, device: torch.device) -> str:
    """How the training passes will be computed, in one line."""
    train = config.train
    where = f"{torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    if env.world_size() > 1:
        where = f"{env.world_size()} ranks, {where} each"
    tf32 = " (TF32 convolutions)" if device.type == "cuda" and train.tf32 else ""
    choices = {
        f"{train.precision}{tf32}": True,
        "channels-last": train.channels_last,
        "compiled": train.compile,
        "fused optimizers": config.optimizer.discriminator.get("fused", False)
        and not config.optimizer.tensorflow_epsilon,
    }
    return f"{device} ({where}): " + ", ".join(name for name, chosen in choices.items() if chosen)


def factory(node: dict[str, Any], axis: str) -> Callable[..., Any]:
    """What a config node's `_target_` names, its other keys bound; raises UserError naming the axis."""
    node = {key: value for key, value in node.items() if key != "name"}
    try:
        return instantiate({**node, "_partial_": True}, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise UserError(f"the config of {axis} is wrong: {one_line(error.__cause__ or error)}") from error


def build(node: dict[str, Any], axis: str, *arguments: Any, **named: Any) -> Any:
    """Call what a config node names; raises UserError naming the axis where it refuses its arguments."""
    make = factory(node, axis)
    try:
        return make(*arguments, **named)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise UserError(f"the config of {axis} does not fit {node['_target_']}: {one_line(error)}") from error


def optional(node: dict[str, Any], axis: str) -> Any:
    """Like `build`, or None where the choice is to have no such part."""
    return build(node, axis) if node.get("_target_") else None


def load_images(config: JudgeConfig) -> ImageArray:
    """The dataset's prepared array under `paths.data`, made on first use."""
    return build(config.dataset.prepare, "dataset", root=config.data)


def build_networks(config: Config, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator, initialized and normalized: a function of the config and its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(config.seed, "networks").initial_seed())  # the host's
        generator = build(config.arch.generator, "arch")
        discriminator = build(config.arch.discriminator, "arch")
        build(config.init.generator, "init", generator)
        build(config.init.discriminator, "init", discriminator)
        if env.world_size() > 1 and config.train.sync_bn:
            synchronize(generator)
            synchronize(discriminator)
        layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
        for network in (generator, discriminator):
            network.to(memory_format=layout)
        _normalize(config, generator, discriminator)
        if config.norm.output == "gradient":
            norms.normalize_gradient(discriminator)
    # Only now, so that all devices start from the same bits.
    return generator.to(device), discriminator.to(device)


def example_inputs(config: Config, *networks: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    """What generator and discriminator can be called with: latents `[1, latent_dim]`, images `[1, 3, H, W]`.

    Each with classes `[1]` where its network needs them.
    """
    size = config.dataset.image_size
    for network, shape in zip(networks, ((config.arch.latent_dim,), (3, size, size)), strict=True):
        device = next(network.parameters()).device
        label = [torch.zeros(1, dtype=torch.long, device=device)] if needs_labels(network) else []
        yield torch.zeros(1, *shape, device=device), *label


def _normalize(config: Config, generator: nn.Module, discriminator: nn.Module) -> None:
    norm = config.norm
    if not norm.estimator:
        return
    networks = {"generator": generator, "discriminator": discriminator}
    examples = example_inputs(config, generator, discriminator)
    for (target, network), example in zip(networks.items(), examples, strict=True):
        if norm.target not in (target, "both"):
            continue
        try:
            norms.normalize(
                network,
                factory(norm.estimator, "norm"),
                scale=norm.scale,
                gamma=norm.gamma,
                gamma_bias=norm.gamma_bias,
                gamma_start=norm.gamma_start,
                mode=norm.mode,
                scale_rule=norm.scale_rule,
                n_power_iterations=norm.n_power_iterations,
                warmup_iterations=norm.warmup_iterations,
                power_iteration=norm.power_iteration,
                example_input=example,
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"norm={norm.name} does not fit the {target}: {one_line(error)}") from error


def build_evaluators(config: JudgeConfig, array: ImageArray, device: torch.device) -> dict[str, Evaluator]:
    """The judges that `metrics` chooses, by their names; none for metrics=none.

    Raises UserError where two of them would call different figures alike.
    """
    evaluators = {
        name: build(
            config.plain["metrics"][name],
            f"metrics.{name}",
            real=array,
            cache=config.data / "cache",
            device=device,
        )
        for name in config.metrics
    }
    judges: dict[str, tuple[str, Evaluator]] = {}
    for name, evaluator in evaluators.items():
        for figure in chain.from_iterable(evaluator.names.values()):
            other, judge = judges.setdefault(figure, (name, evaluator))
            if judge.extractor.identity != evaluator.extractor.identity:
                raise UserError(
                    f"metrics={other} and metrics={name} both call a figure {figure}: give one of their "
                    "extractors another suffix"
                )
    return evaluators


def build_gan(config: Config, array: ImageArray, device: torch.device) -> Gan:
    """The networks that the config describes and all that trains them, before the first iteration."""
    if config.train.cuda_graphs is True and (reason := _no_graphs(device)):
        raise UserError(f"train.cuda_graphs=true cannot be ({reason}): take train.cuda_graphs=auto")
    generator, discriminator = build_networks(config, device)
    _refuse_single_images(config, generator)
    train, n_dis = config.train, config.optimizer.n_dis
    g_optimizer = _optimizer(config, config.optimizer.generator, generator)
    d_optimizer = _optimizer(config, config.optimizer.discriminator, discriminator)
    if device.type == "cuda":
        for optimizer in (g_optimizer, d_optimizer):
            make_capturable(optimizer, decays=config.optimizer.decay != "none")
    lr_schedulers = {}
    if config.optimizer.decay == "linear":  # to zero after the last iteration
        optimizers = {"g_decay": g_optimizer, "d_decay": d_optimizer}
        lr_schedulers = {
            name: LambdaLR(optimizer, lambda done: 1 - done / train.iterations)
            for name, optimizer in optimizers.items()
        }
    loss = build(config.plain["loss"], "loss")
    sizes = [train.batch_size] * n_dis
    if getattr(loss, "generator_sees_real", False):
        sizes.append(train.g_batch_size)
    resident = train.resident_gb * 1e9
    return Gan(
        generator=generator,
        discriminator=discriminator,
        loss=loss,
        penalty=optional(config.plain["penalty"], "penalty"),
        augmentation=optional(config.plain["augment"], "augment"),
        g_optimizer=g_optimizer,
        d_optimizer=d_optimizer,
        lr_schedulers=lr_schedulers,
        ema=ExponentialMovingAverage(generator, train.ema) if train.ema else None,
        batches=Batches(array.images, sizes, config.seed, device, resident, array.labels),
        g_batch_size=train.g_batch_size,
        latent_dim=config.arch.latent_dim,
        seed=config.seed,
        n_dis=n_dis,
        execution=Execution(train.precision, train.compile),
        reuse_latents=config.optimizer.reuse_latents,
        bn_in_d_updates=train.bn_in_d_updates,
        concatenate_real_and_fake=scores_are_per_sample(discriminator, *_noise(config, array, device)),
    )


def _optimizer(config: Config, node: dict[str, Any], network: nn.Module) -> torch.optim.Optimizer:
    """An optimizer of all parameters of a network."""
    is_adam = node["_target_"] == "torch.optim.Adam"
    if config.optimizer.tensorflow_epsilon:
        if not is_adam:
            raise UserError(
                f"optimizer.tensorflow_epsilon=true is Adam's, not {node['_target_']}'s: leave it"
            )
        options = {key: value for key, value in node.items() if key != "fused"}
        node = {**options, "_target_": "gan_lab.training.adam.TensorFlowAdam"}
    elif is_adam:
        node = {**node, "_target_": "gan_lab.training.adam.Adam"}
    return build(node, "optimizer", network.parameters())


def _refuse_single_images(config: Config, generator: nn.Module) -> None:
    """Batch norm of features has no variance to divide by where it sees one image."""
    if not any(isinstance(module, nn.BatchNorm1d) for module in generator.modules()):
        return
    parts = config.train.bn_batches
    for key, size in (("batch_size", config.train.batch_size), ("g_batch_size", config.train.g_batch_size)):
        if size // parts < 2:
            raise UserError(
                f"train.{key}={size} gives the batch norm of arch={config.arch.name} a single image: take at "
                f"least {2 * parts}"
            )


def _noise(config: Config, array: ImageArray, device: torch.device) -> tuple[Tensor, ...]:
    """A few images `[3, 3, H, W]` of noise, and classes for them where the dataset has any."""
    size = config.dataset.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    labels = () if array.labels is None else (torch.from_numpy(array.labels[:3]).to(device),)
    return images, *labels


def build_intervals(config: Config) -> Intervals:
    train = config.train
    return Intervals(
        iterations=train.iterations,
        log_every=train.log_every,
        probe_every=config.probes.every,
        audit_every=config.probes.audit_every,
        sample_every=train.sample_every,
        checkpoint_every=train.checkpoint_every,
    )


def build_monitor(config: Config, gan: Gan) -> DivergenceMonitor:
    # A GPU repeats a thousand iterations of a small network in seconds, which copies of its state would take.
    keep_every = 1000 if gan.device.type == "cuda" else 1
    return DivergenceMonitor(
        gan, config.train.max_score, stop=config.train.on_divergence == "stop", keep_every=keep_every
    )


def build_graphed(config: Config, gan: Gan, monitor: DivergenceMonitor) -> GraphedUpdate | None:
    """The iterations of a run as graphs, where `train.cuda_graphs` wants them and there can be any."""
    wanted = config.train.cuda_graphs
    if wanted is False or (wanted == "auto" and gan.device.type != "cuda"):
        return None
    if reason := _no_graphs(gan.device):
        log.info("iterations are computed operation by operation, not as graphs: %s", reason)
        return None
    return GraphedUpdate(gan, monitor.see, CudaGraphs(gan.device), required=wanted is True)


def _no_graphs(device: torch.device) -> str:
    """Why there can be no graphs."""
    if device.type != "cuda":
        return f"device={device} has none"
    return f"none holds what {env.world_size()} ranks say to each other" if env.world_size() > 1 else ""


def build_tracker(config: Config, directory: Path, iteration: int) -> Tracker | None:
    """The tracker that the config names, which cannot stop the run; None where it is disabled."""
    if config.tracker.mode == "disabled":
        return None
    info, node = run_info(config, directory, iteration), config.plain["tracker"]
    title = node["_target_"].rpartition(".")[2].removesuffix("Tracker")
    return Guarded(title, lambda: build(node, "tracker", run=info))


def run_info(config: Config, directory: Path, iteration: int) -> RunInfo:
    """What a tracker is told of a run whose records up to an iteration count."""
    unique = f"{config.dataset.name}-{config.run_id}-{config.seed}"
    settings = {key: value for key, value in config.identity().items() if key != "seed"}
    settings["iterations"] = config.train.iterations  # another seed's mean goes over as many
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    axes = (config.dataset, config.arch, config.norm)
    group = "-".join([*(axis.name for axis in axes), f"{config.norm.scale:g}", digest])
    name = display_name(directory, str(config.plain["tracker"].get("_target_")), config.tracker.name)
    return RunInfo(directory, unique, name, config.plain, iteration, group)


def refuse_unknown_tracker_keys(config: Config) -> None:
    """Raise UserError for a tracker that cannot be called as the config says: the run would leave it out."""
    node = config.plain["tracker"]
    if config.tracker.mode == "disabled":
        return
    if not node.get("_target_"):
        raise UserError(
            f"tracker={config.tracker.name} has no mode {config.tracker.mode}: take tracker=wandb"
        )
    try:
        known = inspect.signature(get_object(node["_target_"])).parameters
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"tracker._target_ cannot be used ({one_line(error)}): give another") from error
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for key in node.keys() - known.keys() - {"name", "_target_"}:
        choices = ", ".join(sorted(known.keys() - {"run", "live", "files"}))
        raise UserError(f"tracker.{key} is no key of this tracker: take one of {choices}")
