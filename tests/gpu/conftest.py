"""The device of the tests marked `gpu`, and a report of what they saw there, with the card's name."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gan_lab import device as device_module
from gan_lab.device import hardware, pick_device, prepare_process

SEEN: dict[str, float | str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-report", type=Path, help="a file for what the tests marked gpu have seen")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("gpu_report", None)
    if path is not None:
        device = pick_device("auto")
        machine = {"device": str(device), "torch": torch.__version__, **hardware(device)}
        path.write_text(json.dumps({**machine, "tests": SEEN}, indent=1) + "\n")


@pytest.fixture
def device() -> Iterator[torch.device]:
    """A GPU where there is one, else the CPU, which must show the same but for what only a GPU has."""
    picked = pick_device("auto")
    deterministic = torch.are_deterministic_algorithms_enabled()
    prepare_process(picked)
    yield picked
    torch.use_deterministic_algorithms(deterministic)
    device_module.allow_tf32(True)


@pytest.fixture
def needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")


@pytest.fixture
def saw(request: pytest.FixtureRequest) -> Callable[[float | str], None]:
    """Notes what a test saw, for the report."""

    def note(value: float | str) -> None:
        SEEN[request.node.name] = value

    return note
