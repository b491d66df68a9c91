"""The parts of a run, each from its node of the composed config."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from gan_lab import norms
from gan_lab.data import Batches, ImageArray
from gan_lab.distributed import env
from gan_lab.distributed.batch_norm import synchronize
from gan_lab.errors import UserError
from gan_lab.metrics import METRICS, Evaluator, Protocol
from gan_lab.metrics.extractors import create as create_extractor
from gan_lab.rng import stream
from gan_lab.training import Schedule, Trainer
from gan_lab.training.ema import ExponentialMovingAverage
from gan_lab.training.forward import Execution, scores_are_per_sample


def execution_summary(config: dict[str, Any], device: torch.device) -> str:
    """How the training passes will be computed, in one line."""
    train = config["train"]
    where = f"{torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    if env.world_size() > 1:
        where = f"{env.world_size()} ranks, {where} each"
    tf32 = " (TF32 convolutions)" if device.type == "cuda" and train["tf32"] else ""
    choices = {
        f"{train['precision']}{tf32}": True,
        "channels-last": train["channels_last"],
        "compiled": train["compile"],
        "CUDA graphs": train["cuda_graphs"],
        "fused optimizers": config["optimizer"]["discriminator"].get("fused", False),
    }
    return f"{device} ({where}): " + ", ".join(name for name, chosen in choices.items() if chosen)


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
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise UserError(
            f"the config of {axis} does not fit {node['_target_']}: {_one_line(error)}"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def load_images(config: dict[str, Any]) -> ImageArray:
    """The dataset's prepared array under `paths.data`, made on first use."""
    return build(config["dataset"]["prepare"], "dataset", root=Path(config["paths"]["data"]))


def build_networks(config: dict[str, Any], device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator, initialized and normalized: a function of the config and its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(config["seed"], "networks").initial_seed())
        generator = build(config["arch"]["generator"], "arch")
        discriminator = build(config["arch"]["discriminator"], "arch")
        build(config["init"]["generator"], "init", generator)
        build(config["init"]["discriminator"], "init", discriminator)
        if env.world_size() > 1 and config["train"]["sync_bn"]:
            synchronize(generator)
            synchronize(discriminator)
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


def build_evaluator(config: dict[str, Any], array: ImageArray, device: torch.device) -> Evaluator | None:
    """The judge that `metrics` describes; None for metrics=none."""
    metrics = config["metrics"]
    if not metrics.get("extractor"):
        return None
    data = Path(config["paths"]["data"])
    weights = Path(metrics["weights"]) if metrics["weights"] else None
    return Evaluator(
        create_extractor(metrics["extractor"], data, weights, device, metrics["precision"]),
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


def build_trainer(config: dict[str, Any], array: ImageArray, device: torch.device) -> Callable[..., Trainer]:
    """A trainer of the networks that the config describes, but for where its records go."""
    generator, discriminator = build_networks(config, device)
    g_optimizer = build(config["optimizer"]["generator"], "optimizer", generator.parameters())
    d_optimizer = build(config["optimizer"]["discriminator"], "optimizer", discriminator.parameters())
    train = config["train"]
    return functools.partial(
        Trainer,
        generator=generator,
        discriminator=discriminator,
        loss=build(config["loss"], "loss"),
        penalty=build(config["penalty"], "penalty") if config["penalty"]["_target_"] else None,
        g_optimizer=g_optimizer,
        d_optimizer=d_optimizer,
        decays=_decays(config, {"g_decay": g_optimizer, "d_decay": d_optimizer}),
        ema=ExponentialMovingAverage(generator, train["ema"]) if train["ema"] else None,
        batches=Batches(
            array.images,
            train["batch_size"],
            config["seed"],
            device,
            resident_bytes=train["resident_gb"] * 1e9,
            n_dis=config["optimizer"]["n_dis"],
        ),
        g_batch_size=train["g_batch_size"],
        latent_dim=config["arch"]["latent_dim"],
        seed=config["seed"],
        schedule=_schedule(config),
        execution=Execution(train["precision"], train["compile"], train["cuda_graphs"]),
        concatenate_real_and_fake=scores_are_per_sample(discriminator, _noise(config, device)),
    )


def _noise(config: dict[str, Any], device: torch.device) -> Tensor:
    """A few images `[3, 3, H, W]` of noise."""
    size = config["dataset"]["image_size"]
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
