"""What Hydra cannot check: values out of range, combinations that make no sense, and a run's identity."""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gan_lab.errors import UserError

# In a wheel the configs lie inside the package, in a checkout next to it.
CONFIGS = next(path for path in Path(__file__).resolve().parents if (path / "configs").is_dir()) / "configs"

# Keys that cannot change what a run computes: they are not part of its identity.
NOT_IDENTITY = (
    "device",
    "fresh",
    "paths",
    "tracker",
    "probes",
    "metrics.batch_size",
    "metrics.precision",  # this one and the next are in the names of the figures
    "metrics.weights",
    "train.log_every",
    "train.sample_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.keep_every",
    "train.resident_gb",
    "train.sync_bn",  # but see `split`
    "train.iterations",  # more iterations are the same run going on; but see `identity`
)

# key: (type, least, most).
RANGES: dict[str, tuple[type, float, float]] = {
    "seed": (int, 0, 2**63 - 1),
    "dataset.image_size": (int, 1, 4096),
    "dataset.max_damaged": (float, 0, 1),
    "arch.width": (float, 1e-3, 64),
    "arch.latent_dim": (int, 1, 2**20),
    "norm.scale": (float, 1e-6, 1e6),
    "norm.n_power_iterations": (int, 1, 10_000),
    "norm.warmup_iterations": (int, 0, 10_000),
    "optimizer.g_lr": (float, 0, 1e9),
    "optimizer.d_lr": (float, 0, 1e9),
    "optimizer.n_dis": (int, 1, 1000),
    "penalty.coefficient": (float, 0, 1e9),
    "metrics.num_generated": (int, 2, 10_000_000),
    "metrics.num_fid": (int, 2, 10_000_000),
    "metrics.num_real": (int, 2, 10_000_000),
    "metrics.num_kid_prc": (int, 2, 10_000_000),
    "metrics.is_splits": (int, 1, 10_000),
    "metrics.kid_subset_size": (int, 2, 10_000_000),
    "metrics.batch_size": (int, 1, 100_000),
    "train.iterations": (int, 1, 10**12),
    "train.batch_size": (int, 1, 10**6),
    "train.g_batch_size": (int, 1, 10**6),
    "train.resident_gb": (float, 0, 1e6),
    "train.ema": (float, 0, 1 - 1e-9),
    "train.log_every": (int, 1, 10**12),
    "train.sample_every": (int, 0, 10**12),
    "train.evaluate_every": (int, 0, 10**12),
    "train.checkpoint_every": (int, 1, 10**12),
    "train.keep_every": (int, 1, 10**12),
    "train.max_score": (float, 1, 1e30),
    "probes.every": (int, 0, 10**12),
    "probes.audit_every": (int, 0, 10**12),
}

# Some choices of an axis do without these, and null means something to these.
MAY_BE_ABSENT = ("dataset.max_damaged", "arch.width", "penalty.", "metrics.")
MAY_BE_NULL = ("metrics.num_fid", "metrics.num_real", "metrics.num_kid_prc")

FLAGS = (
    "fresh",
    "dataset.verify",
    "train.channels_last",
    "train.sync_bn",
    "train.tf32",
    "train.compile",
    "train.cuda_graphs",
)
NAMES = ("dataset.name", "arch.name", "norm.name")  # parts of the run directory's path
FOLDERS = ("paths.data", "paths.outputs")

CHOICES = {
    "train.on_divergence": ("stop", "continue"),
    "norm.gamma": ("none", "shared", "per_layer"),
    "norm.target": ("discriminator", "generator", "both"),
    "optimizer.decay": ("none", "linear"),
    "tracker.mode": ("auto", "online", "offline", "disabled"),
    "train.precision": ("fp32", "bf16"),
}


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """The config that `train.py` would compose from these overrides.

    `config_dir` is a folder of the user's own choices, like `--config-dir`.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    search = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", overrides=[*overrides, *search])


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values; raises UserError where one is missing or points nowhere."""
    try:
        missing = next(_missing(OmegaConf.to_container(cfg)), None)
        if missing:
            raise UserError(f"{missing} has no value: give it one, as in {missing}=...")
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of an unresolved config that nobody gave a value (OmegaConf writes `???`)."""
    for key, value in node.items():
        if value == "???":
            yield f"{prefix}{key}"
        elif isinstance(value, dict):
            yield from _missing(value, f"{prefix}{key}.")


def lookup(config: dict[str, Any], dotted: str) -> Any:
    """The value at a dotted key, or None where it is absent."""
    node: Any = config
    for part in dotted.split("."):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node


def check(config: dict[str, Any]) -> None:
    """Refuse a resolved config that cannot make sense; raises UserError before anything is built."""
    _check_ranges(config, RANGES)
    _check_words(config)
    _check_combinations(config)


def _check_ranges(config: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        kind, least, most = RANGES[key]
        value = lookup(config, key)
        if value is None and (key in MAY_BE_NULL or _is_absent_by_right(config, key)):
            continue
        whole = kind is int
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not fits or not least <= value <= most:
            noun = "a whole number" if whole else "a number"
            raise UserError(f"{key}={value} is not {noun} from {least} to {most:g}: set {key} to one")


def _is_absent_by_right(config: dict[str, Any], key: str) -> bool:
    axis, _, last = key.partition(".")
    return key.startswith(MAY_BE_ABSENT) and last not in config[axis]


def _check_words(config: dict[str, Any]) -> None:
    for key in FLAGS:
        if not isinstance(lookup(config, key), bool | None):
            raise UserError(f"{key}={lookup(config, key)} is neither true nor false: set it to one of them")
    for key in NAMES:
        name = lookup(config, key)
        if not isinstance(name, str) or not name or name.startswith(".") or "/" in name:
            raise UserError(f"{key}={name} cannot name a folder: give it letters and digits")
    for key in FOLDERS:
        if not isinstance(lookup(config, key), str) or not lookup(config, key):
            raise UserError(f"{key}={lookup(config, key)} is no folder: give it the path of one")


def _check_combinations(config: dict[str, Any]) -> None:
    size, sizes = config["dataset"]["image_size"], config["arch"].get("image_sizes")
    if sizes and size not in sizes:
        known = ", ".join(map(str, sizes))
        raise UserError(
            f"arch={config['arch']['name']} has no shape for dataset.image_size={size}: take one of {known}, "
            "or another arch"
        )
    check_metrics(config)
    if config["train"]["cuda_graphs"] and not config["train"]["compile"]:
        raise UserError("train.cuda_graphs=true are graphs of compiled passes: set train.compile=true too")
    loss, penalty = config["loss"]["name"], config["penalty"]["name"]
    if loss == "wgan_gp" and penalty != "gradient_penalty":
        raise UserError(
            f"loss=wgan_gp means penalty=gradient_penalty, not {penalty}: with that, take loss=wasserstein"
        )
    for key, choices in CHOICES.items():
        value = lookup(config, key)
        if value not in choices:
            raise UserError(f"{key}={value} is none of {', '.join(choices)}: take one of them")
    device = str(config["device"])
    if device != "auto" and device.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise UserError(f"device={device} is no device: take auto, cpu, cuda or cuda:<number>")


def check_metrics(config: dict[str, Any]) -> None:
    """Refuse metrics that cannot make sense, whatever else the config says; raises UserError."""
    metrics, dataset = config["metrics"], config["dataset"]["name"]
    if not metrics.get("extractor"):
        return
    _check_ranges(config, [key for key in RANGES if key.startswith("metrics.")])
    if metrics["extractor"] == "digits" and dataset != "digits":
        raise UserError(
            f"metrics=digits judges handwritten digits, not dataset={dataset}: take metrics=inception or "
            "metrics=none"
        )
    for name in ("num_generated", "is_splits", "kid_subset_size", "batch_size"):
        if metrics.get(name) is None:
            raise UserError(f"metrics.{name} has no value: give it a whole number")
    for name in ("weights", "suffix"):
        if not isinstance(metrics.get(name), str | None):
            raise UserError(f"metrics.{name}={metrics[name]} is no text: quote it, or leave it null")
    precision, precisions = metrics.get("precision"), ("exact", "bf16")
    if precision not in precisions:
        raise UserError(f"metrics.precision={precision} is none of {', '.join(precisions)}: take one of them")
    if precision != "exact" and metrics["extractor"] == "digits":
        raise UserError(f"metrics.precision={precision} is for Inception alone: take exact for the digits")
    wanted = {name: metrics.get(name) for name in ("fid", "is", "kid", "prc")}
    for name, value in wanted.items():
        if not isinstance(value, bool):
            raise UserError(f"metrics.{name}={value} is neither true nor false: set it to one of them")
    if not any(wanted.values()):
        raise UserError("metrics.fid, is, kid and prc are all false: set one to true, or take metrics=none")
    splits, count = metrics["is_splits"], metrics["num_generated"]
    if wanted["is"] and splits > count:
        raise UserError(f"metrics.is_splits={splits} exceeds metrics.num_generated={count}: lower it")


def split(config: dict[str, Any], ranks: int) -> dict[str, Any]:
    """The config of a run on so many ranks; raises UserError where they cannot share a batch evenly.

    Their number changes nothing that a run computes, but for batch norm that each does for itself: the new
    key `train.bn_batches`, of the run's identity, says in how many parts it sees a batch.
    """
    for key in ("train.batch_size", "train.g_batch_size"):
        if (size := lookup(config, key)) % ranks:
            raise UserError(
                f"{key}={size} cannot be shared evenly by {ranks} ranks: take a multiple of {ranks}"
            )
    if ranks == 1 or config["train"]["sync_bn"]:
        return config
    return {**config, "train": {**config["train"], "bn_batches": ranks}}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved config that decides what a run computes."""
    kept = copy.deepcopy(config)
    keys = list(NOT_IDENTITY)
    if lookup(config, "dataset.verify"):  # a verified archive is the same wherever it lies
        keys += ["dataset.raw", "dataset.prepare.raw"]
    for key in keys:
        if key == "train.iterations" and lookup(config, "optimizer.decay") != "none":
            continue  # the learning rate of every iteration depends on their number
        *parents, last = key.split(".")
        node = lookup(kept, ".".join(parents)) if parents else kept
        if isinstance(node, dict):
            node.pop(last, None)
    return _one_spelling(kept)


def _one_spelling(node: Any) -> Any:
    """1 and 1.0 are one number, and shall be one run."""
    if isinstance(node, dict):
        return {key: _one_spelling(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_one_spelling(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node


def run_id(config: dict[str, Any]) -> str:
    """A short hash of what the run computes: the same for the same command, whatever machine runs it."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_directory(config: dict[str, Any]) -> Path:
    """`<outputs>/<dataset>/<arch>/<norm>/seed<k>-<id>`, a function of what the run computes."""
    names = (config[axis]["name"] for axis in ("dataset", "arch", "norm"))
    return Path(config["paths"]["outputs"]).joinpath(*names, f"seed{config['seed']}-{run_id(config)}")
