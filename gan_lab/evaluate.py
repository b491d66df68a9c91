"""Metrics of anything that makes images or is images: a run, a generator, a checkpoint, a folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from torch import Tensor

from gan_lab.build import build_evaluator, load_images
from gan_lab.config import check_metrics, compose, resolved
from gan_lab.data.recipe import FORMATS
from gan_lab.device import pick_device
from gan_lab.errors import UserError
from gan_lab.load import is_run, load
from gan_lab.metrics import METRICS

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Verdict:
    """What was judged against which dataset, how (`metrics` as composed), and the figures."""

    source: str
    against: str
    metrics: dict[str, Any]
    values: dict[str, float]


def judge(
    source: Path,
    against: str | None = None,
    metrics: Sequence[str] | None = None,
    num: int | None = None,
    weights: Path | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    allow: Sequence[str] = (),
) -> Verdict:
    """Judge `source`: a run's directory, its generator.safetensors, a checkpoint, or a folder of images.

    `against` is a choice of `dataset` (None: the run's own), `metrics` are some of METRICS, `num` is how many
    images are made (None: as many as the protocol says) or taken from the folder (None: all), `weights` is a
    file of Inception's; `overrides` and `config_dir` are as for train.py, and `allow` is that of
    `gan_lab.load.load`. Raises UserError.
    """
    device = pick_device(_compose(overrides, config_dir).device)
    files = _image_files(source) if source.is_dir() and not is_run(source) else []
    if files:
        if not against:
            raise UserError(f"nothing says what to judge {source} against: name a dataset with --against")
        if num and num > len(files):
            raise UserError(f"--num {num} exceeds the {len(files)} images in {source}: lower it")
        num = num or len(files)
        dataset, judged = [f"dataset={against}"], source
    else:
        trained = load(source, device, allow)
        dataset = [f"dataset={against}"] if against else _own_dataset(trained.config)
        judged = trained.weights

    wanted = _metrics_overrides(metrics, num, weights)
    config = resolved(_compose([*dataset, *overrides, *wanted], config_dir))
    check_metrics(config)
    if not config["metrics"]["extractor"]:
        raise UserError(f"metrics={config['metrics']['name']} judges nothing: take metrics=inception")
    array = load_images(config)
    shape = array.images.shape[1:]

    def generate(start: int, stop: int) -> Tensor:
        if files:
            return torch.stack([_read(path, shape) for path in files[start:stop]])
        images = trained.generate(start, stop, "evaluation")
        if images.shape[1:] != shape:
            raise UserError(_other_size(judged, tuple(images.shape[1:]), shape))
        return images

    generate(0, 1)  # refuses images of another size before the real ones are worked on
    evaluator = build_evaluator(config, array, device)
    assert evaluator is not None
    return Verdict(str(judged), config["dataset"]["name"], config["metrics"], evaluator.evaluate(generate))


def _metrics_overrides(metrics: Sequence[str] | None, num: int | None, weights: Path | None) -> list[str]:
    overrides = []
    if metrics is not None:
        if unknown := [name for name in metrics if name not in METRICS]:
            raise UserError(f"the metric {unknown[0]!r} is none of {', '.join(METRICS)}: take some of them")
        overrides += [f"metrics.{name}={str(name in metrics).lower()}" for name in METRICS]
    if num is not None:
        overrides.append(f"metrics.num_generated={num}")
    if weights is not None:
        overrides.append(f"metrics.weights={_quoted(str(weights))}")
    return overrides


def _own_dataset(config: dict[str, Any]) -> list[str]:
    """Overrides that compose the dataset of a run; how it is prepared is not the run's to say."""
    dataset = config["dataset"]
    return [f"dataset={dataset['name']}"] + [
        f"dataset.{key}={_quoted(value) if isinstance(value, str) else json.dumps(value)}"
        for key, value in dataset.items()
        # A key with a dot would reach into `prepare`.
        if key != "name" and key.isidentifier() and not isinstance(value, dict)
    ]


def _quoted(text: str) -> str:
    """Text as one string of Hydra's grammar."""
    return "'" + text.replace("'", r"\'") + "'"


def _compose(overrides: Sequence[str], config_dir: Path | None) -> DictConfig:
    try:
        return compose(overrides, config_dir)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split("Config search path")[0].split())
        raise UserError(f"the dataset or the overrides are wrong: {reason}") from error


def _image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{folder} holds neither a run nor images: give a folder that does")
    return files


def _read(path: Path, shape: tuple[int, ...]) -> Tensor:
    """One image as uint8 `[3, H, W]`. Resizing is not the judge's business: how it is done changes FID."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            pixels = np.array(image.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:  # a damaged image can fail in any way
        raise UserError(f"the image {path} cannot be read ({error}): mend it or take it away") from error
    if pixels.shape != shape:
        raise UserError(_other_size(path, pixels.shape, shape))
    return torch.from_numpy(pixels)


def _other_size(source: Path, given: tuple[int, ...], real: tuple[int, ...]) -> str:
    return (
        f"{source} gives images of {given[2]}×{given[1]} pixels and the real ones have {real[2]}×{real[1]}: "
        "judge against a dataset of that size, or set dataset.image_size"
    )
