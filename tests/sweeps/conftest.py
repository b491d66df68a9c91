"""The runs of a small sweep one after another, made once for all tests of sweeps."""

from collections.abc import Callable
from pathlib import Path

import pytest
from six_runs import CHECKPOINT_EVERY, ITERATIONS, LOG_EVERY, RUNS, SweepOfSix

from gan_lab.config import compose, load
from gan_lab.run import run


@pytest.fixture(scope="session")
def _common(data: Path) -> list[str]:
    return [
        *("experiment=tiny", "metrics=none", "device=cpu", "arch.width=0.03125", "probes.every=20"),
        *(f"train.iterations={ITERATIONS}", f"train.log_every={LOG_EVERY}", "train.batch_size=2"),
        *(f"train.checkpoint_every={CHECKPOINT_EVERY}", "train.sample_every=20", f"paths.data={data}"),
    ]


@pytest.fixture(scope="session")
def _reference(_common: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    outputs = tmp_path_factory.mktemp("one-after-another")
    configs = [compose([*_common, *varied, "tracker=local", f"paths.outputs={outputs}"]) for varied in RUNS]
    assert [run(config).exit_status for config in configs] == [0] * 6
    return [load(config).run_directory for config in configs]


@pytest.fixture
def sweep_of_six(
    _common: list[str],
    _reference: list[Path],
    recorded: Callable[[Path], list[dict[str, float]]],
    tmp_path: Path,
) -> SweepOfSix:
    return SweepOfSix([*_common, f"paths.outputs={tmp_path}/outputs"], _reference, recorded)
