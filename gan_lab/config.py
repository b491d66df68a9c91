"""The config of a run: its keys, their types, ranges and choices, and which of them are its identity."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo

from gan_lab import presets, shell
from gan_lab.errors import UserError, first_line, one_line
from gan_lab.overrides import no_key, unreadable

FOREVER = 10**12  # iterations
MEASURES: dict[str, Any] = {"identity": False}  # marks a key that cannot change what a run computes


def number(least: float, most: float, default: Any = ..., identity: bool = True) -> Any:
    """A field with a range; the key may be absent where there is a default."""
    return Field(default, ge=least, le=most, json_schema_extra=None if identity else MEASURES)


def measure(default: Any = ...) -> Any:
    """A field that cannot change what a run computes: no part of its identity."""
    return Field(default, json_schema_extra=MEASURES)


def _folder_name(value: Any) -> Any:
    if not isinstance(value, str) or not value or value.startswith(".") or "/" in value:
        raise ValueError("cannot name a folder: give it letters and digits")
    return value


def _folder(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("is no folder: give it the path of one")
    try:
        Path(value).expanduser()
    except RuntimeError:
        raise ValueError("names the home of nobody here: give the path in full") from None
    return value


def _device(value: Any) -> Any:
    if value != "auto" and str(value).split(":")[0] not in ("cpu", "cuda", "mps"):
        raise ValueError("is no device: take auto, cpu, cuda or cuda:<number>")
    return value


FolderName = Annotated[str, BeforeValidator(_folder_name)]  # a part of the run directory's path
Folder = Annotated[str, BeforeValidator(_folder)]
Node = dict[str, Any]  # what Hydra instantiates


class _Axis(BaseModel):
    """An axis of the config: a choice may have keys of its own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class _Section(_Axis):
    """A part of the config without choices: a key that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Dataset(_Axis):
    name: FolderName
    image_size: int = number(1, 4096)
    max_damaged: float = number(0, 1, default=0.0)
    verify: bool = True
    prepare: Node


NormLayers = Literal["none", "layer", "group", "instance", "batch"]  # of activations


class Arch(_Axis):
    name: FolderName
    width: float = number(1e-3, 64, default=1.0)
    latent_dim: int = number(1, 2**20)
    image_sizes: list[int] | None = None
    discriminator_norm: NormLayers = "none"
    generator: Node
    discriminator: Node


class Norm(_Axis):
    name: FolderName
    estimator: Node | None
    scale: float = number(1e-6, 1e6)
    gamma: Literal["none", "shared", "per_layer", "per_filter"]
    gamma_bias: bool = False
    gamma_start: Literal["scale", "weight"] = "scale"
    mode: Literal["divide", "clip"] = "divide"
    scale_rule: Literal["constant", "fan"] = "constant"
    n_power_iterations: int = number(1, 10_000)
    warmup_iterations: int = number(0, 10_000)
    power_iteration: Literal["block", "plain"] = "block"
    target: Literal["discriminator", "generator", "both"]
    activations: NormLayers = "none"
    output: Literal["none", "gradient"] = "none"


# Penalties on the slope of each image's own score.
OF_SLOPES = ("gradient_penalty", "r1", "r2", "r1_r2", "dragan")


class Init(_Axis):
    generator: Node
    discriminator: Node


class Loss(_Axis):
    name: str


class Penalty(_Axis):
    name: str
    coefficient: float = number(0, 1e9, default=1.0)
    every: int = number(1, FOREVER, default=1)


class Augment(_Axis):
    name: str
    policy: list[Literal["color", "translation", "cutout"]] | None = Field(None, min_length=1)
    strength: float = number(0, 1, default=1.0)


class Optimizer(_Axis):
    g_lr: float = number(0, 1e9)
    d_lr: float = number(0, 1e9)
    n_dis: int = number(1, 1000)
    reuse_latents: bool = False
    tensorflow_epsilon: bool = False
    decay: Literal["none", "linear"]
    generator: Node
    discriminator: Node


class Metrics(_Axis):
    """One evaluator: who judges, what, on how many images, and how often."""

    extractor: Node
    datasets: list[str] | None = None  # the only ones that it can judge; None: all
    measure: list[Literal["fid", "is", "kid", "prc", "dc"]] = Field(["fid", "is"], min_length=1)
    every: int = number(0, FOREVER, default=0)
    num_generated: int = number(2, 10_000_000, default=50_000)
    num_fid: int | None = number(2, 10_000_000, default=None)
    fid_separate: bool = False
    num_real: int | None = number(2, 10_000_000, default=None)
    num_kid_prc: int | None = number(2, 10_000_000, default=10_000)
    is_splits: int = number(1, 10_000, default=10)
    is_outputs: int | None = number(2, 10_000_000, default=None)
    kid_subset_size: int = number(2, 10_000_000, default=1000)
    batch_size: int = number(1, 100_000, default=64)
    gpu_batch_size: int = number(1, 100_000, default=256)


class Tracker(_Axis):
    name: str
    mode: Literal["auto", "online", "offline", "disabled"]
    artifact: bool = False  # of W&B: the generator's weights at the end


class Train(_Section):
    iterations: int = number(1, FOREVER, identity=False)  # more are the same run, continued; see `identity`
    batch_size: int = number(1, 10**6)
    g_batch_size: int = number(1, 10**6)
    ema: float = number(0, 1 - 1e-9)
    precision: Literal["fp32", "bf16"]
    tf32: bool
    resident_gb: float = number(0, 1e6, identity=False)
    sync_bn: bool = measure()  # but see `bn_batches`
    bn_in_d_updates: bool = True
    bn_batches: int = number(1, 10**6, default=1)  # in how many parts batch norm sees a batch
    channels_last: bool
    compile: bool
    cuda_graphs: Literal["auto"] | bool = measure()  # a graph leaves the same bits, or is not used
    log_every: int = number(1, FOREVER, identity=False)
    sample_every: int = number(0, FOREVER, identity=False)
    evaluate_every: int = number(0, FOREVER, identity=False)
    checkpoint_every: int = number(1, FOREVER, identity=False)
    keep_every: int = number(1, FOREVER, identity=False)
    max_score: float = number(1, 1e30)
    on_divergence: Literal["stop", "continue"]


class Probes(_Section):
    every: int = number(0, FOREVER)
    audit_every: int = number(0, FOREVER)


class Paths(_Section):
    data: Folder
    outputs: Folder


class JudgeConfig(_Axis):
    """What judging images needs of a config. `plain` holds its values as they are written and hashed."""

    device: Annotated[str, BeforeValidator(_device)] = measure()
    dataset: Dataset
    metrics: dict[str, Metrics] = measure()
    paths: Paths = measure()

    _plain: dict[str, Any] = PrivateAttr()

    @property
    def plain(self) -> dict[str, Any]:
        """All keys and values, the user's own too."""
        return self._plain

    @property
    def data(self) -> Path:
        return Path(self.paths.data).expanduser()

    @property
    def outputs(self) -> Path:
        return Path(self.paths.outputs).expanduser()

    def combinations(self) -> Iterator[str]:
        """What makes no sense together, each in a sentence."""
        for name, metrics in self.metrics.items():
            if metrics.datasets and self.dataset.name not in metrics.datasets:
                yield (
                    f"metrics={name} judges {' and '.join(metrics.datasets)} only, not dataset="
                    f"{self.dataset.name}: take metrics=lite, metrics=inception or metrics=none"
                )
            splits, count = metrics.is_splits, metrics.num_generated
            if "is" in metrics.measure and splits > count:
                more = f"metrics.{name}.num_generated={count}"
                yield f"metrics.{name}.is_splits={splits} exceeds {more}: lower it"


class Config(JudgeConfig):
    """The config of a run, resolved, which makes sense."""

    seed: int = number(0, 2**63 - 1)
    fresh: bool = measure()
    arch: Arch
    norm: Norm
    init: Init
    loss: Loss
    penalty: Penalty
    augment: Augment
    optimizer: Optimizer
    tracker: Tracker = measure()
    train: Train
    probes: Probes = measure()

    def identity(self) -> dict[str, Any]:
        """The part of the config that decides what the run computes."""
        return identity(self.plain)

    @property
    def run_id(self) -> str:
        """A short hash of what the run computes: the same for the same command, whatever machine runs it."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def run_directory(self) -> Path:
        """`<outputs>/<dataset>/<arch>/<norm>/seed<k>-<id>`, a function of what the run computes."""
        names = (self.dataset.name, self.arch.name, self.norm.name)
        return self.outputs.joinpath(*names, f"seed{self.seed}-{self.run_id}")

    def combinations(self) -> Iterator[str]:
        yield from super().combinations()
        size, sizes = self.dataset.image_size, self.arch.image_sizes
        if sizes and size not in sizes:
            yield (
                f"arch={self.arch.name} has no shape for dataset.image_size={size}: take one of "
                f"{', '.join(map(str, sizes))}, or another arch"
            )
        if self.norm.gamma_bias and self.norm.gamma == "none":
            yield (
                "norm.gamma_bias=true needs a scale that is learned: set norm.gamma=shared, per_layer or "
                "per_filter"
            )
        if self.norm.gamma_start == "weight" and self.norm.gamma not in ("per_layer", "per_filter"):
            yield (
                "norm.gamma_start=weight begins at each layer's own sigma, for which "
                f"norm.gamma={self.norm.gamma} has no place: set norm.gamma=per_layer or per_filter"
            )
        sizes_differ = self.train.g_batch_size != self.train.batch_size
        if self.optimizer.reuse_latents and sizes_differ:
            yield (
                "optimizer.reuse_latents=true needs as many images in both updates, not train.g_batch_size="
                f"{self.train.g_batch_size} and train.batch_size={self.train.batch_size}: set them alike"
            )
        layers, chosen = self.norm.activations, self.arch.discriminator_norm
        if layers not in ("none", chosen):
            yield (
                f"norm={self.norm.name} puts {layers} norm into the discriminator, and "
                f"arch.discriminator_norm={chosen}: leave that out, or take an arch with a place for them"
            )
        if self.norm.output == "gradient" and chosen == "batch":
            yield (
                "norm.output=gradient divides a score by its own image's slope, and under batch norm it "
                "depends on its whole batch: take another arch.discriminator_norm"
            )
        if self.norm.output == "gradient" and self.penalty.name in OF_SLOPES:
            yield (
                f"penalty={self.penalty.name} is on a slope, and norm.output=gradient makes that a function "
                "of the score, (1 - |score|)²: take penalty=none"
            )
        if chosen == "batch" and self.penalty.name in OF_SLOPES:
            yield (
                f"penalty={self.penalty.name} is on the slope of an image's own score, and under batch norm "
                "it depends on its whole batch: take another arch.discriminator_norm, or penalty=none"
            )
        if self.loss.name == "wgan_gp" and self.penalty.name != "gradient_penalty":
            yield (
                f"loss=wgan_gp means penalty=gradient_penalty, not {self.penalty.name}: with that, take "
                "loss=wasserstein"
            )


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """The config that `train.py` would compose from these overrides; raises UserError where it refuses them.

    `config_dir` is a folder of the user's own choices, like `--config-dir`.
    """
    from hydra.errors import HydraException

    try:
        return _composed(overrides, config_dir)
    except (HydraException, OmegaConfBaseException) as error:
        if sentence := unreadable(overrides) or misspelt(overrides, config_dir):
            raise UserError(sentence) from error
        reason = one_line(error).partition("Config search path")[0]
        hint = "" if config_dir else " (a choice of your own needs --config-dir)"
        raise UserError(f"the overrides are wrong: {reason}{hint}") from error


def misspelt(overrides: Sequence[str], config_dir: Path | None = None) -> str | None:
    """A sentence on the first key that the config lacks, with the one that is meant; None where it has all.

    Of overrides that Hydra has refused, whose own answer is how to add that key.
    """
    from hydra.errors import HydraException

    axes = presets.axes()
    typed = {override.partition("=")[0]: override for override in overrides}
    chosen = [override.partition(",")[0] for key, override in typed.items() if key in axes]
    try:
        composed = OmegaConf.to_container(_composed(chosen, config_dir), resolve=False)
    except (HydraException, OmegaConfBaseException):
        return None
    known = sorted({*axes, *_keys(composed)})
    for key in typed:
        if key not in known and not key.startswith(("+", "~", "hydra.", "hydra/")):
            return no_key(key, known)
    return None


def _composed(overrides: Sequence[str], config_dir: Path | None) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    presets.register()
    GlobalHydra.instance().clear()
    search = []
    if config_dir:
        search = [f"hydra.searchpath=[{shell.quoted(f'file://{config_dir.expanduser().resolve()}')}]"]
    with initialize_config_dir(str(presets.CONFIGS), version_base="1.3"):
        return hydra_compose("train", [*overrides, *search])


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of what a config holds, folders and values."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def load(cfg: DictConfig, ranks: int = 1) -> Config:
    """The config of a run on so many ranks; raises UserError where it cannot make sense."""
    return of_plain(resolved(cfg), ranks)


def of_plain(plain: Mapping[str, Any], ranks: int = 1) -> Config:
    """Like `load`, of plain values, e.g. those of a run's config.yaml.

    The number of ranks changes nothing that a run computes, but for batch norm that each does for itself
    (`train.sync_bn=false`): then `train.bn_batches` says in how many parts it sees a batch.
    """
    train = plain.get("train")
    if ranks > 1 and isinstance(train, dict) and train.get("sync_bn") is False:
        plain = {**plain, "train": {**train, "bn_batches": ranks}}
    config = _checked(Config, plain)
    for key, size in (("batch_size", config.train.batch_size), ("g_batch_size", config.train.g_batch_size)):
        if size % ranks:
            raise UserError(
                f"train.{key}={size} cannot be shared evenly by {ranks} ranks: take a multiple of {ranks}"
            )
    return config


def to_judge(plain: Mapping[str, Any]) -> JudgeConfig:
    """What judging needs of these values, whatever else they say; raises UserError like `load`."""
    return _checked(JudgeConfig, plain)


C = TypeVar("C", bound=JudgeConfig)


def _checked(model: type[C], plain: Mapping[str, Any]) -> C:
    values = dict(plain)
    if isinstance(values.get("metrics"), dict):  # what an experiment sets for protocols that are not chosen
        values["metrics"] = {k: v for k, v in values["metrics"].items() if not v or "_target_" in v}
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(error)) from error
    config._plain = values
    for reason in config.combinations():
        raise UserError(reason)
    return config


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """A composed config as plain values; raises UserError where one is missing or points nowhere."""
    try:
        raw = OmegaConf.to_container(cfg)
        assert isinstance(raw, dict)
        for axis, field in Config.model_fields.items():
            # Before another axis asks for one of its keys.
            if raw.get(axis, ...) is None and _is_axis(field.annotation):
                raise UserError(_no_choice(axis))
        missing = next(_missing(raw), None)
        if missing:
            raise UserError(f"{missing} has no value: give it one, as in {missing}=...")
        for sentence in _unread(raw):
            raise UserError(sentence)
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {first_line(error)}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of an unresolved config that nobody gave a value (OmegaConf writes `???`)."""
    for key, value in node.items():
        if value == "???":
            yield f"{prefix}{key}"
        elif isinstance(value, dict):
            yield from _missing(value, f"{prefix}{key}.")


def _unread(raw: Mapping[Any, Any]) -> Iterator[str]:
    """A sentence on each key that looks like one which is read, and that nothing reads.

    A config may have keys of one's own, for others to refer to (`${norm.groups}`) or for an axis's object.
    """
    text = str(raw)
    for prefix, model, node in _axes(raw):
        if not isinstance(node, dict) or "_target_" in node:
            continue
        own = [key for key in node if key not in model.model_fields]
        unread = [key for key in own if f"{{{key}}}" not in text and f".{key}}}" not in text]
        known = [key for key in (*model.model_fields, *own) if key not in unread]
        for key in unread:
            if get_close_matches(key, known, 1, cutoff=0.8):
                yield no_key(f"{prefix}{key}", [f"{prefix}{other}" for other in known])


def _axes(raw: Mapping[Any, Any]) -> Iterator[tuple[str, type[BaseModel], Any]]:
    """The prefix of its keys, the model and the node of the whole, and of each axis."""
    yield "", Config, raw
    for name, field in Config.model_fields.items():
        if _is_axis(field.annotation):
            yield f"{name}.", field.annotation, raw.get(name)


def identity(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The part of plain values that decides what a run computes; they need not be a whole config."""
    kept = _identity(Config, plain)
    decay = _at(plain, "optimizer", "decay")
    if decay not in (None, "none") and isinstance(kept.get("train"), dict):
        # The learning rate of every iteration depends on their number.
        kept["train"]["iterations"] = _at(plain, "train", "iterations")
    # Where the images lie makes no difference: what they are is recorded and compared, see gan_lab.run.
    for node in (_at(kept, "dataset"), _at(kept, "dataset", "prepare")):
        for key in ("raw", "path") if isinstance(node, dict) else ():
            node.pop(key, None)
    return _one_spelling(kept)


def _at(plain: Any, *keys: str) -> Any:
    for key in keys:
        plain = plain.get(key) if isinstance(plain, Mapping) else None
    return plain


def _identity(model: Any, plain: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in plain.items():
        field = model.model_fields.get(key) if hasattr(model, "model_fields") else None
        if field is not None and field.json_schema_extra == MEASURES:
            continue
        child = field.annotation if field is not None else None
        kept[key] = _identity(child, value) if isinstance(value, Mapping) else value
    return kept


def _one_spelling(node: Any) -> Any:
    """1 and 1.0 are one number, and shall be one run."""
    if isinstance(node, dict):
        return {key: _one_spelling(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_one_spelling(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node


# What to choose where nothing is chosen, as `penalty=null` does.
_NOTHING = {"penalty": "none", "augment": "none", "metrics": "none", "norm": "none", "tracker": "local"}


def _no_choice(axis: str) -> str:
    example = f"{axis}={_NOTHING.get(axis, '...')}"
    return f"{axis} has no choice: take one of those in configs/{axis}, as in {example}"


def _is_axis(annotation: Any) -> TypeGuard[type[_Axis]]:
    return isinstance(annotation, type) and issubclass(annotation, _Axis)


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong, as a person needs it: the key, its value, and how to mend it."""
    first = error.errors()[0]
    *parents, last = map(str, first["loc"])
    kind, value, axis = first["type"], first["input"], str(first["loc"][0])
    key = ".".join([*parents, last] if not last.isdecimal() else parents)
    given = f"{key}={value if not isinstance(value, bool) else str(value).lower()}"
    field = _field(key)
    if key == axis and (kind == "missing" or (kind in ("model_type", "dict_type") and value is None)):
        return _no_choice(axis)
    if kind == "missing":
        return f"{key} has no value: give it one, as in {key}=..."
    if kind == "extra_forbidden":
        section = _field(".".join(parents))
        fields = section.annotation.model_fields if section and section.annotation else Config.model_fields
        return no_key(key, [".".join([*parents, name]) for name in fields])
    if kind == "value_error":
        return f"{given} {first['ctx']['error']}"
    if kind == "literal_error" and field is not None:
        choices = ", ".join(map(str, _choices(field.annotation)))
        return f"{given} is none of {choices}: take one of them"
    if kind == "bool_type":
        return f"{given} is neither true nor false: set it to one of them"
    bounds = {type(bound).__name__: bound for bound in field.metadata} if field else {}
    if {"Ge", "Le"} <= bounds.keys():
        is_whole = field is not None and float not in (field.annotation, *get_args(field.annotation))
        noun = "a whole number" if is_whole else "a number"
        return f"{given} is not {noun} from {bounds['Ge'].ge} to {bounds['Le'].le:g}: set {key} to one"
    if kind == "string_type":
        return f"{given} must be a string: quote it"
    return f"{given} is wrong ({first['msg']}): see `python train.py --cfg job` for what it should be"


def _field(key: str) -> FieldInfo | None:
    """The field of a dotted key."""
    model: Any = Config
    field = None
    for part in key.split("."):
        if get_origin(model) is dict:  # of models, by names that the user chose
            model = get_args(model)[1]
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return None
        model = field.annotation
    return field


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Of a Literal, or of a list of them."""
    return get_args(annotation) if get_origin(annotation) is Literal else _choices(get_args(annotation)[0])
