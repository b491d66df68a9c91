"""A trained network out of a run's directory, without running code that the directory names."""

import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from gan_lab.build import build_networks
from gan_lab.config import Config, of_plain
from gan_lab.errors import UserError, first_line
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RunDirectory
from gan_lab.training.forward import needs_labels
from gan_lab.training.samples import generate

# A run directory may come from anybody: what its config names is called only if it is defined in these.
TRUSTED = ("gan_lab.archs", "gan_lab.norms")


@dataclass(frozen=True)
class Trained:
    """A generator in eval mode, its run's config and directory, the file and iteration of its weights."""

    generator: nn.Module
    config: Config
    directory: RunDirectory
    weights: Path
    iteration: int

    def generate(
        self, start: int, stop: int, purpose: str, seed: int | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Images by number, uint8 `[stop - start, 3, H, W]`; those that the run makes for the purpose itself.

        `seed` is the run's own unless it is given; `labels` `[stop - start]` are the images' classes. Raises
        UserError where the generator needs some.
        """
        if labels is None and needs_labels(self.generator):
            raise UserError(
                f"{self.weights} makes images of classes, which only its own dataset tells: judge it against "
                "that, or name one, as generate does with --label 0"
            )
        seed = self.config.seed if seed is None else seed
        latent_dim = self.config.arch.latent_dim
        try:
            return generate(self.generator, latent_dim, seed, purpose, start, stop, labels)
        except (IndexError, TypeError) as error:
            if labels is None:
                raise
            reason = f"{self.weights} makes no images of class {int(labels[0])}"
            raise UserError(f"{reason} ({first_line(error)}): give another, or none") from error


def load(source: Path, device: torch.device, allow: Sequence[str] = ()) -> Trained:
    """The generator of a run directory, of its generator.safetensors, or of one of its checkpoints.

    `allow` names further modules that the run's config may take networks and norms from. Raises UserError
    where there is no whole generator, or where the config names anything else.
    """
    directory, weights = locate(source)
    config, generator, _ = networks(directory, device, allow)
    iteration = _restore(generator, "generator", weights, directory)
    return Trained(generator, config, directory, weights, iteration)


def load_discriminator(source: Path, device: torch.device, allow: Sequence[str] = ()) -> nn.Module:
    """The discriminator of a run directory, of its discriminator.safetensors, or of one of its checkpoints.

    In eval mode, with its norms, which `gan_lab.norms.remove` turns into ordinary weights. Otherwise like
    `load`.
    """
    directory, weights = locate(source, "discriminator")
    _, _, discriminator = networks(directory, device, allow)
    _restore(discriminator, "discriminator", weights, directory)
    return discriminator


def _restore(network: nn.Module, kind: str, weights: Path, directory: RunDirectory) -> int:
    """Put the file's weights into the network, for use; returns the iteration after which they were so."""
    try:
        state, iteration = _read(weights, kind)
        network.load_state_dict(state)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{weights} does not hold the {kind} of {directory.config} ({first_line(error)}): give "
            "another file of that run"
        ) from error
    network.eval().requires_grad_(False)
    return iteration


def networks(
    directory: RunDirectory, device: torch.device, allow: Sequence[str] = ()
) -> tuple[Config, nn.Module, nn.Module]:
    """A run's config, and the generator and the discriminator that it describes, as before training.

    `allow` names further modules that the config may take networks and norms from. Raises UserError where it
    names anything else, or nothing can be built from it.
    """
    plain = directory.read_config()
    for target in _targets({axis: plain.get(axis) for axis in ("arch", "init", "norm")}):
        _refuse_untrusted(target, (*TRUSTED, *allow), directory.config)
    try:
        config = of_plain(plain)
        generator, discriminator = build_networks(config, device)
    except UserError:
        raise
    except Exception as error:  # a config of another version, or a spoilt one, can be wrong in any way
        raise UserError(
            f"no networks can be built from {directory.config}, which is damaged or of another version "
            f"({type(error).__name__}: {first_line(error)}): take another run"
        ) from error
    return config, generator, discriminator


def is_run(source: Path) -> bool:
    """Whether `source` is a run's directory, rather than a folder of images."""
    return RunDirectory(source).config.exists()


def locate(source: Path, kind: str = "generator") -> tuple[RunDirectory, Path]:
    """The run's directory and the file of weights that `source` stands for, of the network of a kind."""
    if source.is_dir():
        directory = RunDirectory(source)
        weights = directory.generator if kind == "generator" else directory.discriminator
        if directory.config.exists() and not weights.exists():
            newest = max(directory.checkpoints.glob("*.pt"), default=None)
            remedy = f"give its checkpoint {newest}" if newest else "train it first"
            raise UserError(f"the run {source} has no {weights.name} yet: {remedy}")
        return directory, weights
    if not source.exists():
        raise UserError(f"{source} does not exist: give a run's directory, {kind} or checkpoint")
    for folder in (source.absolute().parent, source.absolute().parent.parent):
        if is_run(folder):
            return RunDirectory(folder), source
    raise UserError(f"no config.yaml next to {source} says what network it is of: put its run's there")


def _read(weights: Path, kind: str) -> tuple[dict[str, Tensor], int]:
    """The network's state and the iteration after which it was like that."""
    if weights.suffix == ".safetensors":
        with safe_open(weights, framework="pt") as file:
            # Not the status's iteration: the run may have been continued since.
            return {name: file.get_tensor(name) for name in file.keys()}, int(file.metadata()["iteration"])  # noqa: SIM118
    state = checkpoint.load(weights)
    if kind == "generator":  # what the run itself samples and judges
        return state.get("ema", state["generator"]), state["iteration"]
    return state[kind], state["iteration"]


def _targets(node: Any) -> Iterator[str]:
    """All names of callables in a config; raises UserError for text that Hydra would replace."""
    if isinstance(node, str) and "${" in node:
        raise UserError(f"the run's config holds {node}, which is not resolved: put its value there")
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _targets(child)
    if isinstance(node, dict) and "_target_" in node:
        yield str(node["_target_"])


def _refuse_untrusted(target: str, trusted: Sequence[str], config: Path) -> None:
    try:
        if not _lies_in(target, trusted):
            raise UserError(
                f"{config} names {target}, which is not of this project: if you trust it, allow it with "
                f"--allow {target.rpartition('.')[0]}"
            )
        # An attribute of a module may have come from anywhere by import: where it is defined decides.
        home = pkgutil.resolve_name(target).__module__
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{config} names {target}, which is not found: extend PYTHONPATH") from error
    if not _lies_in(home, trusted):
        raise UserError(f"{config} names {target}, defined in {home}: if you trust that, --allow {home}")


def _lies_in(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
