"""Hydra's plugins that configs/hydra/ builds on: presets compose without them, and say what is missing."""

import importlib.util

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

# (group, choice, module, the extra that installs it)
PLUGINS = (
    ("hydra/launcher", "joblib", "hydra_joblib_launcher", "sweeps"),
    ("hydra/launcher", "submitit_slurm", "hydra_submitit_launcher", "sweeps"),
    ("hydra/launcher", "ray", "hydra_ray_launcher", "ray"),
    ("hydra/sweeper", "optuna", "hydra_optuna_sweeper", "optuna"),
)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(f"hydra_plugins.{module}") is not None
    except ModuleNotFoundError:  # no plugin at all
        return False


def register_missing() -> None:
    """Put something in the place of each choice that is not installed, which names its extra."""
    for group, name, module, extra in PLUGINS:
        if not _is_installed(module):
            ConfigStore.instance().store(name, {"needs": extra}, group=group)


def missing(config: DictConfig) -> str | None:
    """A sentence on the plugin that a sweep asks for and that is not installed; None where all are."""
    for axis in ("launcher", "sweeper"):
        if extra := config.hydra[axis].get("needs"):
            choice = config.hydra.runtime.choices[f"hydra/{axis}"]
            return f"hydra/{axis}={choice} needs a plugin: pip install -e '.[{extra}]' in gan-lab's folder"
    return None
