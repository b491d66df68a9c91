"""metrics.jsonl by the column against a plain reading with json."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import make_run

from gan_lab.errors import UserError
from gan_lab.report import records
from gan_lab.tracking.jsonl import read as read_rows


def plainly(path: Path, name: str) -> list[float]:
    return [math.nan if row.get(name) is None else row[name] for row in read_rows(path)]


def test_columns_are_what_json_reads(tmp_path: Path) -> None:
    metrics = make_run(tmp_path, rows=700, grids=0) / "metrics.jsonl"
    names = list(records.glimpse(metrics))
    assert set(names) == {name for row in read_rows(metrics) for name in row} - {"iteration"}
    record = records.read(metrics, names)
    assert record.iteration.tolist() == [row["iteration"] for row in read_rows(metrics)]
    assert record.damaged == 0
    for name in names:
        exact = np.array(plainly(metrics, name), np.float64 if name.startswith("metric/") else np.float32)
        np.testing.assert_array_equal(record.columns[name], exact, err_msg=name)


def test_every_protocols_metrics_are_seen(tmp_path: Path) -> None:
    """Also one that was measured once, far from both ends of a long record."""
    path = tmp_path / "metrics.jsonl"
    rows = [{"iteration": k, "loss/d": 1.0 / k} for k in range(1, 20_001)]
    for row in rows[99::100]:
        row["metric/fid_10k_5k"] = 9.0
    rows[10_000] |= {"metric/fid": 5.0, "metric/is_mean": 2.0}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert set(records.glimpse(path)) == {"loss/d", "metric/fid_10k_5k", "metric/fid", "metric/is_mean"}


def test_names_that_come_late_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"iteration": k, "loss/d": 1.0 / k} for k in range(1, 40_001)]
    rows[20_000] |= {"slope/real_mean": 1.0, "metric/fid": None, "grad_bound/d/conv0": 3.5}
    rows[-1] |= {"metric/fid": 7.0, "last": 8.0}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = records.glimpse(path)
    assert set(seen) == {"loss/d", "slope/real_mean", "grad_bound/d/conv0", "metric/fid", "last"}
    assert seen["loss/d"] == 1.0
    assert seen["metric/fid"] == 7.0


def test_a_line_cut_off_in_writing_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for tail in ('{"iteration": 3, "a"', '{"iteration": 3, "a": 3}'):
        path.write_text('{"iteration": 1, "a": 1}\n{"iteration": 2, "a": null}\n' + tail)
        record = records.read(path, ["a"])
        assert record.iteration.tolist() == [1, 2]
        assert record.damaged == 0
        np.testing.assert_array_equal(record.columns["a"], [1.0, math.nan])


@pytest.mark.parametrize(
    "damage",
    [
        b"\0\0\0\0",
        b"[1, 2]",
        b"7",
        b'{"iteration": 2, "a": "\xff"}',
        b"[" * 100_000,
        b'{"a": ' + b"1" * 10**6 + b"}",
    ],
    ids=["zeros", "a list", "a number", "no text", "nested", "long"],
)
def test_damaged_lines_are_counted_and_left_out(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iteration": 1, "a": 1}\n' + damage + b'\n{"iteration": 3, "a": 3}\n')
    assert set(records.glimpse(path)) == {"a"}
    record = records.read(path, ["a"])
    assert record.iteration.tolist() == [1, 3]
    assert record.columns["a"].tolist() == [1.0, 3.0]
    assert record.damaged == 1


def test_names_and_paths_are_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]*?'\"x"
    folder.mkdir()
    path = folder / "metrics.jsonl"
    names = ["sigma/a", "sigma/A", "it's", 'say "x"', "x'); drop--", "Iteration"]
    path.write_text(json.dumps({"iteration": 5, **{name: k for k, name in enumerate(names)}}) + "\n")
    seen = list(records.glimpse(path))
    assert seen == names[:-1]  # SQL cannot tell it from the iteration
    columns = records.read(path, seen).columns
    assert {name: column.tolist() for name, column in columns.items()} == {
        name: [k] for k, name in enumerate(seen)
    }


def test_columns_in_several_passes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = make_run(tmp_path, rows=50, grids=0) / "metrics.jsonl"
    names = list(records.glimpse(metrics))
    at_once = records.read(metrics, names).columns
    monkeypatch.setattr(records, "MOST_VALUES", 7 * 50)
    for name, column in records.read(metrics, names).columns.items():
        np.testing.assert_array_equal(column, at_once[name])


def test_iterations_ascend_even_if_the_file_does_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"iteration": {k}, "a": {10 * k}}}\n' for k in (3, 1, 2)))
    record = records.read(path, ["a"])
    assert record.iteration.tolist() == [1, 2, 3]
    assert record.columns["a"].tolist() == [10, 20, 30]


def test_no_file_has_no_names_and_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert records.glimpse(tmp_path / "none") == records.glimpse(tmp_path / "empty") == {}
    assert len(records.read(tmp_path / "empty", ["a"]).iteration) == 0
    with pytest.raises(UserError):
        records.read(tmp_path / "none", ["a"])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(allow_nan=False, width=32) | st.none(), min_size=1, max_size=20))
def test_any_number_is_read_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, values: list[float | None]
) -> None:
    path = tmp_path_factory.mktemp("any") / "metrics.jsonl"
    written = [None if v is not None and math.isinf(v) else v for v in values]  # as training writes them
    path.write_text("".join(json.dumps({"iteration": k, "a": v}) + "\n" for k, v in enumerate(written)))
    read = records.read(path, ["a"]).columns["a"]
    np.testing.assert_array_equal(read, np.array([math.nan if v is None else v for v in written], np.float32))


def test_the_last_row_that_holds_a_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "metric/fid": 5}\n{"iteration": 2}\n{"iteration": 3, "metric/fid": 4')
    assert records.last_row(path) == {"iteration": 2}
    assert records.last_row(path, b'"metric/') == {"iteration": 1, "metric/fid": 5}
    assert records.last_row(path, b"nothing") == records.last_row(tmp_path / "none") == {}
