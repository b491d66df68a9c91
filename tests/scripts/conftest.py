"""A finished run for the scripts to work on, and the scripts as functions."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_lab import terminal
from gan_lab.config import compose, load
from gan_lab.run import run

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="session")
def train(data: Path) -> Callable[..., Path]:
    """Trains a run of three iterations on digits, judged at its end, in a folder; returns its directory."""

    def call(outputs: Path, *overrides: str) -> Path:
        config = compose(
            [
                "experiment=tiny",
                "init=xavier",  # images that differ at once: small initial weights make them all grey
                "train.iterations=3",
                "train.checkpoint_every=1",
                "metrics.digits.num_generated=60",
                "tracker=local",
                "device=cpu",
                f"paths.data={data}",
                f"paths.outputs={outputs}",
                *overrides,
            ]
        )
        assert run(config).exit_status == 0
        return load(config).run_directory

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Path]) -> Path:
    """The directory of such a run; nobody changes it."""
    return train(tmp_path_factory.mktemp("outputs"))


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """Its directory below another `paths.outputs`, `tmp_path / "outputs"`, to do with as one likes."""
    below = Path(*finished.parts[-4:])
    return shutil.copytree(finished, tmp_path / "outputs" / below)


@pytest.fixture(scope="session")
def last_row(finished: Path) -> dict[str, float]:
    return json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="session")
def script() -> Callable[[str], Callable[[list[str]], int]]:
    """A script as a function: takes its arguments, returns its exit status."""

    def load(name: str) -> Callable[[list[str]], int]:
        spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return lambda arguments: terminal.exit_status(lambda: module.main(arguments))

    return load


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[int], str]:
    """Asserts that a script ended with status 2 and one sentence; returns the sentence."""

    def check(status: int) -> str:
        printed = capsys.readouterr()
        assert status == 2
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        return printed.err

    return check
