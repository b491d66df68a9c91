"""Metrics of anything that makes images or is images: a run, a generator, a checkpoint, a folder."""

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from gan_lab.build import build_evaluators, load_images
from gan_lab.config import compose, resolved, to_judge
from gan_lab.data import FolderImages
from gan_lab.data.batches import sample_labels
from gan_lab.data.folder import MAX_DAMAGED
from gan_lab.data.raw import list_images
from gan_lab.data.recipe import Recipe
from gan_lab.device import pick_device, prepare_process
from gan_lab.errors import UserError
from gan_lab.load import Trained, is_run, load, locate
from gan_lab.metrics import METRICS, Evaluator
from gan_lab.presets import CONFIGS
from gan_lab.report import runs
from gan_lab.runs.directory import RunDirectory
from gan_lab.runs.lock import RunLock
from gan_lab.shell import quoted
from gan_lab.tracking import jsonl


@dataclass(frozen=True)
class Verdict:
    """What was judged against which dataset, how (`metrics` as composed), and the figures.

    `recorded` says whether they are in the run's record.
    """

    source: str
    against: str
    metrics: dict[str, Any]
    values: dict[str, float]
    recorded: bool = False


def judge(
    source: Path,
    against: str | None = None,
    measure: Sequence[str] | None = None,
    num: int | None = None,
    weights: Path | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    allow: Sequence[str] = (),
    record: bool = False,
) -> Verdict:
    """Judge `source`: a run's directory, its generator.safetensors, a checkpoint, or a folder of images.

    `against` is a choice of `dataset`; None: the run's own, under the run's own protocols. `measure` are
    some of METRICS. `num` is how many images are made (None: as many as the protocol says) or taken from the
    folder (None: all). `weights` is a file of Inception's. `overrides` and `config_dir` are as for train.py,
    `allow` is that of `gan_lab.load.load`. With `record` the figures of a run, against its own dataset, are
    put into its metrics.jsonl, at the iteration of the weights; what stands there already is not judged
    again. Raises UserError.
    """
    is_folder = source.is_dir() and not is_run(source)
    if is_folder and not list_images(source).names:
        raise UserError(f"{source} holds neither a run nor images: give a folder that does")
    if is_folder and not against:
        raise UserError(f"nothing says what to judge {source} against: name a dataset with --against")
    if is_folder and record:
        raise UserError(f"{source} is no run that has a record: leave --record out")
    own = [f"dataset={against}"] if against else _own_choices(locate(source)[0], config_dir)
    plain = _compose(own, overrides, config_dir)
    files = _folder(source, plain["dataset"]) if is_folder else None
    if num and files and num > len(files):
        raise UserError(f"--num {num} exceeds the {len(files)} images in {source}: lower it")
    _adjust(plain["metrics"], measure, num or (len(files) if files else None), weights)
    config = to_judge(plain)
    if not config.metrics:
        raise UserError("metrics=none judges nothing: take metrics=inception")
    device = pick_device(config.device)
    trained = None if files else load(source, device, allow)
    prepare_process(
        device, tf32=trained.config.train.tf32 if trained else True
    )  # as the run itself is judged
    if record and (against or (trained and trained.config.dataset.name != config.dataset.name)):
        raise UserError(
            f"the figures in a run's record are against its own dataset, not {config.dataset.name}: leave "
            "--record out"
        )
    array = load_images(config)
    shape = array.images.shape[1:]

    def generate(start: int, stop: int) -> Tensor:
        if trained is None:
            assert files is not None
            return files.pixels(start, stop)
        labels = None
        if array.labels is not None and trained.config.dataset.name == config.dataset.name:
            labels = sample_labels(torch.from_numpy(array.labels), start, stop)
        return trained.generate(start, stop, "evaluation", labels=labels)

    # Images of another size are refused before the real ones are worked on. Resizing them is not the judge's
    # business: how it is done changes FID.
    if (given := tuple(generate(0, 1).shape[1:])) != shape:
        raise UserError(
            f"{source} gives images of {given[2]}×{given[1]} pixels and the real ones have "
            f"{shape[2]}×{shape[1]}: judge against a dataset of that size, or set dataset.image_size"
        )
    if trained and not against and trained.config.dataset.name == config.dataset.name:
        trained_on = trained.directory.read_status().get("images")
        if trained_on not in (None, array.fingerprint):
            raise UserError(
                f"the images of dataset={config.dataset.name} are not those that {source} was trained on: "
                "say where those are, or name others with --against"
            )
    evaluators = list(build_evaluators(config, array, device).values())
    if trained is None or not record:
        values = {name: value for one in evaluators for name, value in one.evaluate(generate).items()}
    else:
        values = _record(trained, evaluators, generate)
    judged = str(trained.weights if trained else source)
    return Verdict(judged, config.dataset.name, config.plain["metrics"], values, record)


def runs_below(source: Path) -> list[Path]:
    """The runs in a folder, sorted, or the source itself where it is a run, a file, or holds none."""
    if not source.is_dir() or is_run(source):
        return [source]
    return sorted(filter(is_run, runs.folders(source))) or [source]


def _record(trained: Trained, evaluators: Sequence[Evaluator], generate: Any) -> dict[str, float]:
    """Judge what the run's record does not hold yet, and put it there; returns all figures."""
    directory, iteration = trained.directory, trained.iteration
    values: dict[str, float] = {}
    with RunLock(directory.lock):
        known = _recorded(directory.metrics, iteration)
        for evaluator in evaluators:
            names = [name for names in evaluator.names.values() for name in names]
            if not all(name in known for name in names):
                figures = evaluator.evaluate(generate)
                try:
                    jsonl.append(directory.metrics, iteration, figures)
                except OSError as error:
                    raise UserError(
                        f"{directory.metrics} cannot be written ({error.strerror}): see to that"
                    ) from error
                known |= figures
            values |= {name: known[name] for name in names}
    return values


def _recorded(path: Path, iteration: int) -> dict[str, float]:
    """What a run's record holds of an iteration."""
    try:
        rows = [row for row in jsonl.read(path) if row["iteration"] == iteration]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: leave --record out, or mend it") from error
    # What JSON cannot write is null.
    return {name: math.nan if x is None else x for row in rows for name, x in row.items()}


def _adjust(
    metrics: dict[str, Any], measure: Sequence[str] | None, num: int | None, weights: Path | None
) -> None:
    """Change the protocols as the command line says."""
    if measure is not None and (unknown := [name for name in measure if name not in METRICS]):
        raise UserError(f"the metric {unknown[0]!r} is none of {', '.join(METRICS)}: take some of them")
    if weights is not None and not any("weights" in node.get("extractor", {}) for node in metrics.values()):
        raise UserError(f"--weights are Inception's, and metrics={','.join(metrics)} has none: leave it out")
    for node in metrics.values():
        if measure is not None:
            node["measure"] = list(measure)
        if num is not None:
            # All metrics take the same, of which a folder holds no more.
            node.update(num_generated=num, fid_separate=False)
        if weights is not None and "weights" in node.get("extractor", {}):
            node["extractor"]["weights"] = str(weights)


def _own_choices(directory: RunDirectory, config_dir: Path | None = None) -> list[str]:
    """Overrides that compose the dataset and the protocols of a run, from its config.

    Names of things to call are not the run's to say: they come from the choices of these names. A dataset
    that the user renamed has no such choice; it comes from the one that is prepared by the same function.
    """
    config = directory.read_config()
    try:
        dataset, metrics = config["dataset"], config.get("metrics") or {}
        # What `dataset` says itself decides its `prepare` too: a path that is typed shall change both.
        prepare = {key: value for key, value in dataset["prepare"].items() if key not in dataset}
        name = _choice(dataset["name"])
        chosen = [f"dataset={_dataset_choice(name, dataset['prepare'], config_dir)}", f"dataset.name={name}"]
        chosen += [f"metrics=[{','.join(map(_choice, metrics))}]"] if metrics else []
        nodes = {name: {**node} for name, node in metrics.items()}
        images = {key: value for key, value in dataset.items() if not isinstance(value, dict)}
        # A dataset may have been given keys of the user's own, which the choice does not have.
        chosen += [f"++{override}" for override in _values("dataset", images)]
        return [*chosen, *_values("dataset.prepare", prepare), *_values("metrics", nodes)]
    except (LookupError, TypeError, AttributeError) as error:  # it can be wrong in any way
        raise UserError(
            f"{directory.config} is damaged or of another version: name a dataset with --against"
        ) from error


def _choice(name: str) -> str:
    """The name of a choice, which must be that of no file elsewhere."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"the run's config chooses {name!r}, which is no name: give --against and metrics=")
    return name


def _dataset_choice(name: str, prepare: dict[str, Any], config_dir: Path | None) -> str:
    """The choice of `dataset` that a run made, whatever it called it."""
    folders = [folder / "dataset" for folder in (config_dir, CONFIGS) if folder]
    if any((folder / f"{name}.yaml").exists() for folder in folders):
        return name
    for file in sorted(file for folder in folders for file in folder.glob("*.yaml")):
        if OmegaConf.select(OmegaConf.load(file), "dataset.prepare._target_") == prepare.get("_target_"):
            return file.stem
    return name


def _values(prefix: str, node: dict[str, Any]) -> Iterator[str]:
    """An override for each value, but for names and for keys that Hydra would read as several."""
    for key, value in node.items():
        if not re.fullmatch(r"[^\W_][\w-]*", key) or key in ("name", "root"):
            continue
        if isinstance(value, dict):
            yield from _values(f"{prefix}.{key}", value)
            continue
        text = quoted(value) if isinstance(value, str) else json.dumps(value)
        if "${" in text:  # Hydra would replace it, be it by something to call
            raise UserError(f"the run's config holds {text}, which is not resolved: put its value there")
        yield f"{prefix}.{key}={text}"


def _compose(own: Sequence[str], overrides: Sequence[str], config_dir: Path | None) -> dict[str, Any]:
    """The plain config of these choices; what was typed replaces what is a run's own."""
    typed = {override.partition("=")[0].lstrip("+~") for override in overrides}
    kept = [one for one in own if not _is_replaced(one.partition("=")[0].lstrip("+"), typed)]
    return resolved(compose([*kept, *overrides], config_dir))


def _is_replaced(key: str, typed: set[str]) -> bool:
    """Whether a key, or the choice that it belongs to, was typed."""
    return key in typed or key.partition(".")[0] in typed


def _folder(path: Path, dataset: dict[str, Any]) -> FolderImages:
    """The images of a folder to be judged against a dataset; says what is left out of it."""
    files = FolderImages(path, _recipe(dataset), dataset.get("max_damaged", MAX_DAMAGED))
    notes = [f"{len(files.damaged)} damaged ones left out"] if files.damaged else []
    notes += [f"passed over {others}"] if (others := files.listing.others()) else []
    if notes:
        print(f"judging {len(files):,} images of {path}: {', '.join(notes)}", file=sys.stderr)
    return files


def _recipe(dataset: dict[str, Any]) -> Recipe | None:
    """How a folder's images are cut and resized: as training does it with folders, elsewhere not at all."""
    prepare = dataset.get("prepare", {})
    if prepare.get("_target_") != "gan_lab.data.folder.prepare":
        return None
    return Recipe(dataset["image_size"], resample=prepare["resample"])
