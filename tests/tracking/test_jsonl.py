import json
import math
from pathlib import Path

import pytest

from gan_lab.tracking.jsonl import JsonLines, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_rows_come_back(path: Path) -> None:
    record = JsonLines(path)
    record.log(5, {"loss/d": 0.1, "speed/step_ms": 1e-300})
    record.log(10, {"loss/d": 1 / 3})
    record.finish("finished")
    assert list(read(path)) == [
        {"iteration": 5, "loss/d": 0.1, "speed/step_ms": 1e-300},
        {"iteration": 10, "loss/d": 1 / 3},
    ]


def test_each_line_can_be_read_at_once(path: Path) -> None:
    record = JsonLines(path)
    record.log(5, {"loss/d": 1.0})
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [5]
    record.finish("finished")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_write_is_null(path: Path, value: float) -> None:
    record = JsonLines(path)
    record.log(1, {"loss/d": value, "loss/g": 2.0})
    record.finish("diverged")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"iteration": 1, "loss/d": None, "loss/g": 2.0}


def test_resuming_cuts_off_what_was_lost(path: Path) -> None:
    record = JsonLines(path)
    record.log(5, {"loss/d": 1.0})
    length = record.length()
    record.log(10, {"loss/d": 2.0})
    record.finish("interrupted")

    record = JsonLines(path, length)
    assert record.length() == length
    record.log(10, {"loss/d": 3.0})
    record.finish("finished")
    assert [(row["iteration"], row["loss/d"]) for row in read(path)] == [(5, 1.0), (10, 3.0)]


def test_starting_over_begins_an_empty_record(path: Path) -> None:
    path.write_text('{"iteration": 5}\n')
    JsonLines(path).finish("finished")
    assert path.read_bytes() == b""


def test_a_line_cut_off_by_a_crash_is_left_out(path: Path) -> None:
    path.write_text('{"iteration": 5}\n{"iterat')
    assert [row["iteration"] for row in read(path)] == [5]


def test_a_line_cut_off_by_a_crash_does_not_spoil_the_next(path: Path) -> None:
    """A power cut can leave less of the file than the checkpoint remembers."""
    path.write_text('{"iteration": 5}\n{"iterat')
    record = JsonLines(path, length=1000)
    record.log(10, {})
    record.finish("finished")
    assert [row["iteration"] for row in read(path)] == [5, 10]


def test_no_record_is_no_rows(path: Path) -> None:
    assert list(read(path)) == []
