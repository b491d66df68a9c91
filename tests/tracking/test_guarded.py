"""A tracker that fails must not stop a run."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gan_lab.config import compose, load
from gan_lab.run import run
from gan_lab.tracking import Guarded

PLACES = ("start", "log", "log_samples", "finish")


class Failing:
    """A tracker that fails at one place, and counts how often it is used after that."""

    uses_after_failure = 0

    def __init__(self, failing_at: str, **_: Any) -> None:
        self.failing_at, self.failed = failing_at, False
        self._reach("start")

    def _reach(self, place: str) -> None:
        type(self).uses_after_failure += self.failed
        if place == self.failing_at:
            self.failed = True
            raise RuntimeError(f"no {place} today\nand a long story")

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._reach("log")

    def log_samples(self, iteration: int, grid: Path) -> None:
        self._reach("log_samples")

    def finish(self, state: str) -> None:
        self._reach("finish")


@pytest.fixture(autouse=True)
def _count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "uses_after_failure", 0)


@pytest.mark.parametrize("place", PLACES)
def test_one_warning_and_then_silence(place: str, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Guarded("gadget", lambda: Failing(place))
    for iteration in (1, 2, 3):
        tracker.log(iteration, {"loss/d": 1.0})
        tracker.log_samples(iteration, Path("grid.png"))
    tracker.finish("finished")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"gadget failed and is left out from here on: no {place} today. " in record.getMessage()
    assert Failing.uses_after_failure == 0


def test_an_error_without_words_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def start() -> Failing:
        raise TimeoutError

    Guarded("gadget", start)
    assert "TimeoutError" in caplog.text


def train(overrides: list[str]) -> Path:
    cfg = compose([*overrides, "train.iterations=5", "probes.every=0"])
    assert run(cfg).exit_status == 0
    return load(cfg).run_directory


def test_a_run_goes_on_and_its_own_record_is_whole(
    tiny: list[str], tmp_path: Path, recorded: Callable[[Path], list[dict[str, float]]]
) -> None:
    expected = recorded(train(tiny))
    assert [row["iteration"] for row in expected] == [5]
    for place in PLACES:
        failing = [f"+tracker._target_={__name__}.Failing", f"+tracker.failing_at={place}"]
        directory = train([*tiny, *failing, "tracker.mode=offline", f"paths.outputs={tmp_path}/{place}"])
        assert recorded(directory) == expected
        assert (directory / "samples/00000005.png").exists()
        warnings = [line for line in (directory / "train.log").read_text().splitlines() if "WARNING" in line]
        assert len(warnings) == 1
        assert f"no {place} today" in warnings[0]
