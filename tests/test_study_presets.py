"""The study's sweeps: each asks what it says, of runs that differ in nothing else."""

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from gan_lab.config import compose, identity, load
from gan_lab.presets import CONFIGS
from gan_lab.report.runs import flatten

SWEEPS = {  # by preset: what may differ between its runs, the seed aside
    "scale": {"norm"},
    "families": {"norm", "arch.discriminator_norm", "arch.discriminator.norm"},
    "initialization": {"norm", "init"},
    "exploding": {"norm", "loss", "optimizer.d_lr", "optimizer.discriminator.lr", "init.discriminator.std"},
    "rates": {
        "norm",
        *(f"optimizer.{key}" for key in ("g_lr", "d_lr", "n_dis", "generator.lr", "discriminator.lr")),
    },
    "controls": {"norm", "train.precision", "train.ema", "augment"},
    "pictures": {"norm"},
    "longer": {"norm", "init"},
}


def jobs(name: str) -> list[list[str]]:
    """The overrides of each run that `-m experiment=study/<name>` launches, as Hydra itself splits them."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra_compose("train", [f"experiment=study/{name}"], return_hydra_config=True)
    parameters = [f"{key}={value}" for key, value in cfg.hydra.sweeper.params.items()]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(parameters), None)
    return batch


def test_every_sweep_is_here() -> None:
    files = {path.stem for path in (CONFIGS / "experiment/study").glob("*.yaml")}
    assert files == {*SWEEPS, "common", "common_digits"}


@pytest.mark.parametrize("name", SWEEPS)
def test_runs_of_a_sweep_differ_in_what_it_asks_only(name: str) -> None:
    batch = jobs(name)
    configs: list[dict[str, Any]] = []
    for job in (batch[0], batch[len(batch) // 2], batch[-1]):
        config = load(compose([f"experiment=study/{name}", *job]))
        assert config.dataset.name == ("folder" if name == "pictures" else "digits")
        configs.append(flatten(identity(config.plain)))
    keys = reduce(set.union, map(set, configs))
    differ = {key for key in keys if len({str(config.get(key)) for config in configs}) > 1} - {"seed"}
    assert differ
    assert {key for key in differ if not key.startswith(tuple(SWEEPS[name]))} == set()


def test_an_initialization_of_the_discriminator_leaves_the_generators() -> None:
    usual = compose(["init=normal"]).init
    for name in ("lecun", "xavier", "kaiming"):
        own = compose([f"init=d_{name}"]).init
        assert own.generator == usual.generator
        assert own.discriminator == compose([f"init={name}"]).init.discriminator
        assert Path(CONFIGS / f"init/d_{name}.yaml").read_text().startswith("#")
