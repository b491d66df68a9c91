"""Groups, means and verdicts of runs whose scores are known."""

import json
import shutil
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from synthetic_runs import make_run

from gan_lab.report.comparison import (
    BEST,
    FINAL,
    Cell,
    Scores,
    Table,
    compare,
    in_logarithms,
    is_better_low,
    metrics,
    read_scores,
    title,
)
from gan_lab.report.runs import find, where
from gan_lab.report.statistics import pairs_needed
from gan_lab.report.tables import as_markdown, as_text
from gan_lab.tracking.jsonl import read as read_rows

FID, IS = "metric/fid", "metric/is_mean"


def tables(root: Path, fids: dict[str, list[float]], by: list[str] | None = None) -> list[Table]:
    """The comparison of runs below `root` that are told their final FID, in order of their seeds."""
    runs, _ = find(root)
    known = {run.name: {FID: fids[run.config["norm.name"]][run.config["seed"]]} for run in runs}
    found = {name: Scores(final=score, best=score, hours=1.0) for name, score in known.items()}
    return compare(runs, found, by)


def column(table: Table, metric: str = FID, which: str = FINAL) -> dict[str, Cell]:
    return {
        group.label: group.cells[metric, which] for group in table.groups if (metric, which) in group.cells
    }


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for norm in ("none", "sn", "bssn"):
        for seed in range(3):
            make_run(tmp_path, norm, seed, rows=2, grids=0, evaluations=1)
    return tmp_path


def test_the_best_and_what_the_noise_cannot_tell_from_it(sweep: Path) -> None:
    fids = {"none": [90.0, 91.0, 92.0], "sn": [21.0, 19.0, 23.0], "bssn": [20.0, 22.0, 18.5]}
    (table,) = tables(sweep, fids)
    cells = column(table)
    assert {label for label, cell in cells.items() if cell.is_best} == {"bssn"}
    assert {label for label, cell in cells.items() if cell.in_noise} == {"sn"}
    assert cells["bssn"].p is None
    assert cells["none"].p is not None
    assert cells["none"].p < 0.005
    assert cells["sn"].mean.mean == pytest.approx(21.0)
    assert [group.seeds for group in table.groups] == [3, 3, 3]


def test_scores_are_those_of_the_record(tmp_path: Path) -> None:
    folder = make_run(tmp_path, rows=400, grids=0, evaluations=8)
    runs, _ = find(tmp_path)
    found, damaged = read_scores(runs)
    rows = list(read_rows(folder / "metrics.jsonl"))
    fids, scores = ([row[name] for row in rows if name in row] for name in (FID, IS))
    reached = found[runs[0].name]
    assert damaged == []
    assert len(fids) == 8
    assert (reached.final[FID], reached.best[FID]) == (fids[-1], min(fids))
    assert (reached.final[IS], reached.best[IS]) == (scores[-1], max(scores))
    expected = sum(50 * row["speed/step_ms"] for row in rows) / 3.6e6
    assert reached.hours == pytest.approx(expected, rel=1e-6)


def test_the_best_inception_score_is_the_greatest(sweep: Path) -> None:
    runs, _ = find(sweep)
    known = {run.name: {IS: {"none": 2.0, "sn": 7.0, "bssn": 8.0}[run.config["norm.name"]]} for run in runs}
    (table,) = compare(runs, {name: Scores(score, score, None) for name, score in known.items()}, None)
    assert {label for label, cell in column(table, IS).items() if cell.is_best} == {"bssn"}


def test_runs_that_did_not_finish_are_counted_beside(tmp_path: Path) -> None:
    make_run(tmp_path, "sn", 0, rows=2, grids=0)
    make_run(tmp_path, "sn", 1, rows=2, grids=0)
    make_run(tmp_path, "sn", 2, rows=2, grids=0, state="diverged", reason="loss/d is nan")
    make_run(tmp_path, "sn", 3, rows=2, grids=0, reason="diverged by iteration 7, and went on all the same")
    make_run(tmp_path, "sn", 4, rows=2, grids=0, state="failed")
    make_run(tmp_path, "sn", 5, rows=2, grids=0, state="interrupted")
    make_run(tmp_path, "sn", 6, rows=2, grids=0, state="running")
    runs, _ = find(tmp_path)
    found, _ = read_scores(runs)
    (table,) = compare(runs, found, None)
    (group,) = table.groups
    assert (group.seeds, group.finished, group.diverged, group.failed, group.others) == (2, 2, 2, 1, 2)
    finals = [found[run.name].final[FID] for run in runs if run.config["seed"] < 2]
    assert group.cells[FID, FINAL].mean.mean == pytest.approx(fmean(finals))
    assert group.cells[FID, FINAL].mean.n == 2


def test_metrics_of_different_names_are_different_columns(tmp_path: Path) -> None:
    make_run(tmp_path, "sn", 0, rows=2, grids=0)
    other = make_run(tmp_path, "sn", 1, rows=2, grids=0)
    text = (other / "metrics.jsonl").read_text()
    renamed = text.replace("metric/fid", "metric/fid_unverified").replace("is_mean", "is_unverified_mean")
    (other / "metrics.jsonl").write_text(renamed)
    runs, _ = find(tmp_path)
    (table,) = compare(runs, read_scores(runs)[0], None)
    assert [metric for metric, which in table.columns if which == BEST] == [
        FID,
        "metric/fid_unverified",
        IS,
        "metric/is_unverified_mean",
    ]
    assert all(cell.mean.n == 1 for cell in table.groups[0].cells.values())


def test_metrics_of_other_data_are_other_tables(tmp_path: Path) -> None:
    make_run(tmp_path, "sn", rows=2, grids=0)
    make_run(tmp_path, "bssn", rows=2, grids=0)
    make_run(tmp_path, "sn", rows=2, grids=0, dataset__name="stl10")
    runs, _ = find(tmp_path)
    some = compare(runs, read_scores(runs)[0], None)
    assert sorted(len(table.groups) for table in some) == [1, 2]
    assert {table.title for table in some} == {"cifar10", "stl10"}
    for table in some:  # nothing is the best of one
        bests = [cell.is_best for group in table.groups for cell in group.cells.values()]
        assert any(bests) == (len(table.groups) == 2)


def test_what_is_measured_and_how_is_no_setting(tmp_path: Path) -> None:
    """The metrics' names say it."""
    make_run(tmp_path, "sn", 0, rows=2, grids=0)
    make_run(
        tmp_path, "sn", 1, rows=2, grids=0, metrics={"usual": {"num_real": None}, "sooner": {"num_real": 9}}
    )
    make_run(tmp_path, "sn", 2, rows=2, grids=0, metrics={}, dataset__raw="/another/place")
    runs, _ = find(tmp_path)
    (table,) = compare(runs, read_scores(runs)[0], None)
    assert [(group.label, group.seeds, group.mixes) for group in table.groups] == [("all runs", 3, [])]


def rename(folder: Path, **names: str) -> None:
    file = folder / "metrics.jsonl"
    text = file.read_text()
    for old, new in names.items():
        text = text.replace(f'"metric/{old}"', f'"metric/{new}"')
    file.write_text(text)


def test_what_most_runs_have_most_often_comes_first(tmp_path: Path) -> None:
    """Whatever the protocols are called; FID stands before IS all the same."""
    folders = [make_run(tmp_path, "sn", seed, rows=40, grids=0, evaluations=4) for seed in range(3)]
    rename(folders[0], fid="fid_10k_5k")
    rename(folders[1], fid="fid_10k_5k", is_mean="is_10k_mean")
    more = make_run(tmp_path, "sn", 3, rows=40, grids=0, evaluations=20)
    rename(more, is_mean="is_digits_300_mean")
    rename(folders[2], is_mean="is_digits_300_mean")
    runs, _ = find(tmp_path)
    (table,) = compare(runs, read_scores(runs)[0], None)
    finals = [metric for metric, which in table.columns if which == FINAL]
    assert finals == [
        "metric/fid",
        "metric/fid_10k_5k",
        "metric/is_digits_300_mean",
        IS,
        "metric/is_10k_mean",
    ]


def test_values_are_in_the_order_of_their_size(tmp_path: Path) -> None:
    for rate in (1e-3, 1e-5, 2e-4, 10.0):
        make_run(tmp_path, "sn", rows=2, grids=0, optimizer__d_lr=rate)
    runs, _ = find(tmp_path)
    (table,) = compare(runs, {}, None)
    assert [group.label for group in table.groups] == [
        f"d_lr={rate}" for rate in ("1e-05", "0.0002", "0.001", "10")
    ]


def test_without_the_better_groups_the_next_is_tested_against(sweep: Path) -> None:
    fids = {"none": [31.0, 29.0, 28.5], "sn": [21.0, 19.0, 23.0], "bssn": [20.0, 22.0, 18.5]}
    (whole,) = tables(sweep, fids)
    cells = column(whole)
    assert [len(cells[norm].against) for norm in ("bssn", "sn", "none")] == [0, 1, 2]
    runs = where(find(sweep)[0], ["norm=sn,none"])
    known = {run.name: {FID: fids[run.config["norm.name"]][run.config["seed"]]} for run in runs}
    (part,) = compare(runs, {name: Scores(score, score, None) for name, score in known.items()}, None)
    assert cells["none"].against[1].p == column(part)["none"].p


def test_several_settings_are_corrected_for(sweep: Path) -> None:
    """By Holm, for all that are compared with the best: the smaller p of two is doubled; of logarithms."""
    fids = {"none": [31.0, 29.0, 28.5], "sn": [21.0, 23.5, 20.0], "bssn": [20.0, 22.0, 18.5]}
    (table,) = tables(sweep, fids)
    cells = column(table)
    logs = {norm: np.log(values) for norm, values in fids.items()}
    raw = {norm: scipy.stats.ttest_rel(logs[norm], logs["bssn"]).pvalue for norm in ("none", "sn")}
    assert [one.test for one in cells["none"].against] == 2 * ["paired t of logarithms"]
    small, large = sorted(raw, key=raw.__getitem__)
    assert cells[small].p == pytest.approx(2 * raw[small])
    assert cells[large].p == pytest.approx(max(2 * raw[small], raw[large]))
    open_one = cells["sn"].against[0]
    (effect, _) = open_one.effect or (0.0, None)
    assert open_one.seeds_needed == pairs_needed(effect, alpha=0.05 / 2)


def test_a_figure_that_has_no_logarithm_is_compared_by_differences(sweep: Path) -> None:
    """A distance that is estimated may fall below zero; an inception score is no distance."""
    below_zero = {"none": [31.0, 29.0, 28.5], "sn": [0.02, 0.01, -0.01], "bssn": [20.0, 22.0, 18.5]}
    (table,) = tables(sweep, below_zero)
    assert [one.test for one in column(table)["none"].against] == ["paired t", "paired t"]
    assert not in_logarithms(IS, [{"0": [2.0, 3.0]}])
    assert in_logarithms(FID, [{"0": [2.0, 3.0]}])


def test_a_chosen_grouping_that_mixes_settings_says_so(sweep: Path) -> None:
    fids = {"none": [1.0, 2.0, 3.0], "sn": [1.0, 2.0, 3.0], "bssn": [1.0, 2.0, 3.0]}
    (table,) = tables(sweep, fids, ["arch.name"])
    assert [(group.label, group.mixes, group.seeds) for group in table.groups] == [
        ("dcgan", ["norm.name"], 3)
    ]
    (table,) = tables(sweep, fids, ["norm.name", "norm.scale"])
    assert [group.mixes for group in table.groups] == [[], [], []]


def test_names_of_metrics() -> None:
    names = [
        "loss/d",
        "metric/is_digits_mean",
        "metric/is_digits_std",
        "metric/fid_mine_fast",
        "metric/kid_mean",
        "metric/fidelity",
        "metric/fd_lite",
        "metric/fdr",
        "metric/precision",
    ]
    assert metrics(names) == ["metric/fd_lite", "metric/fid_mine_fast", "metric/is_digits_mean"]
    assert [title(name) for name in metrics(names)] == ["FD lite", "FID mine fast", "IS digits"]
    assert [is_better_low(name) for name in metrics(names)] == [True, True, False]


def test_copies_change_no_figure_and_are_named(sweep: Path) -> None:
    fids = {"none": [90.0, 91.0, 92.0], "sn": [21.0, 19.0, 23.0], "bssn": [20.0, 22.0, 18.5]}
    before = [column(table) for table in tables(sweep, fids)]
    shutil.copytree(sweep / "cifar10", sweep / "backup" / "cifar10")
    after = tables(sweep, fids)
    assert [column(table) for table in after] == before
    (line,) = [line for line in as_text(after, bold=False).splitlines() if "backup/" in line]
    assert "Passed over as copies" in line
    assert line.endswith("4 more.")
    assert line in as_markdown(after).replace("\\_", "_").splitlines()


def test_a_record_that_cannot_be_read_is_named(sweep: Path) -> None:
    broken = sorted(sweep.glob("*/*/sn/seed0*/metrics.jsonl"))[0]
    broken.write_text(broken.read_text() + "garbage\n")
    gone = sorted(sweep.glob("*/*/sn/seed1*/metrics.jsonl"))[0]
    gone.unlink()
    runs, _ = find(sweep)
    found, damaged = read_scores(runs)
    assert [trouble.reason for trouble in damaged] == ["1 line of metrics.jsonl cannot be read"]
    assert len(found) == 8
    assert json.loads((broken.parent / "status.json").read_text())["state"] == "finished"
