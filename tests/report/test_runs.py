"""Run directories found, read and told apart."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from synthetic_runs import make_run, make_sweep

from gan_lab.errors import UserError
from gan_lab.report.runs import (
    Run,
    differing,
    find,
    find_key,
    flatten,
    label,
    natural,
    passed_over,
    settings,
    where,
)
from gan_lab.runs.directory import CONFIG_FORMAT


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    make_sweep(tmp_path, ["none", "sn", "bssn"], [], seeds=2, rows=4, grids=0)
    return tmp_path


def test_all_runs_are_found_but_those_set_aside(sweep: Path) -> None:
    kept = next((sweep / "cifar10/dcgan/sn").iterdir())
    kept.rename(kept.with_name(f"{kept.name}.kept1"))
    (sweep / "sweeps").mkdir()
    (sweep / "sweeps" / "multirun.yaml").write_text("")
    inner = next((sweep / "cifar10/dcgan/bssn").iterdir()) / "wandb" / "files"
    inner.mkdir(parents=True)
    (inner / "config.yaml").write_text("a: 1")  # W&B's own, in a run directory
    runs, damaged = find(sweep)
    assert [run.config["norm.name"] for run in runs] == ["bssn", "bssn", "none", "none", "sn"]
    assert damaged == []


def copies_of(runs: list[Run]) -> dict[str, tuple[str, ...]]:
    return {run.name: run.copies for run in runs if run.copies}


@pytest.mark.parametrize(
    "place", ["backup/cifar10/dcgan/sn/{name}", "cifar10/dcgan/sn/{name} (copy)", "b/{name}", "a"]
)
def test_a_copy_is_no_further_run(sweep: Path, place: str) -> None:
    (original,) = sweep.glob("cifar10/dcgan/sn/seed0*")
    copy = place.format(name=original.name)
    shutil.copytree(original, sweep / copy)
    (original / "nested").mkdir()
    shutil.copytree(sweep / copy, original / "nested" / original.name)
    shutil.copytree(sweep / copy, sweep / "kept" / f"{original.name}.kept1-old")
    (sweep / "link").symlink_to(original)
    runs, damaged = find(sweep)
    name = str(original.relative_to(sweep))
    assert (len(runs), damaged) == (6, [])
    assert copies_of(runs) == {name: (copy,)}
    assert passed_over(runs).count("\n") == 0
    assert f"{copy} (of {name})" in passed_over(runs)
    shutil.rmtree(sweep / copy)
    assert passed_over(find(sweep)[0]) == ""


def test_what_changes_no_result_makes_no_other_run_of_a_copy(sweep: Path) -> None:
    """A run that was moved between machines, watched otherwise, or measured otherwise."""
    make_run(sweep / "elsewhere", "sn", 0, rows=4, grids=0, device="cuda:1", train__log_every=7)
    make_run(sweep / "measured", "sn", 0, rows=4, grids=0, metrics={"usual": {"num_real": 5}})
    make_run(sweep / "other", "sn", 0, rows=4, grids=0, optimizer__d_lr=0.5)
    runs, _ = find(sweep)
    assert len(runs) == 7
    assert sorted(map(len, copies_of(runs).values())) == [2]


@pytest.mark.parametrize("further", ["status", "record", "time"])
def test_of_copies_the_furthest_or_else_the_newest_is_taken(sweep: Path, further: str) -> None:
    (original,) = sweep.glob("cifar10/dcgan/sn/seed0*")
    copy = sweep / "backup"
    shutil.copytree(original, copy)
    status = json.loads((copy / "status.json").read_text())
    stamps = {original: "2026-01-02T01:00:00+0200", copy: "2026-01-02T00:00:00+0000"}  # an hour later
    if further == "record":
        with (copy / "metrics.jsonl").open("a") as file:
            file.write('{"iteration": 100000, "loss/d": 1.0}\n')
    else:
        status["iteration"] += further == "status"
    for folder in (original, copy):
        changed = (status if folder == copy else {**status, "iteration": 200}) | {"time": stamps[folder]}
        (folder / "status.json").write_text(json.dumps(changed))
    assert copies_of(find(sweep)[0]) == {"backup": (str(original.relative_to(sweep)),)}


def test_a_half_copied_run_is_no_damage(sweep: Path) -> None:
    (original,) = sweep.glob("cifar10/dcgan/sn/seed0*")
    (sweep / "backup").mkdir()
    shutil.copy(original / "config.yaml", sweep / "backup")
    runs, damaged = find(sweep)
    assert (len(runs), damaged) == (6, [])
    assert copies_of(runs) == {str(original.relative_to(sweep)): ("backup",)}


def test_damage_is_named_and_the_rest_is_there(sweep: Path) -> None:
    one, two, three = sorted((sweep / "cifar10/dcgan").glob("*/seed0*"))
    (one / "config.yaml").write_text("{{{")
    (two / "status.json").write_text('{"state": "fini')
    (three / "config.yaml").unlink()
    runs, damaged = find(sweep)
    assert len(runs) == 4
    assert [run.state for run in runs].count("unknown") == 1
    assert {trouble.name.split("/")[2] for trouble in damaged} == {"bssn", "none", "sn"}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
        "a: &a {b: *a}\n",
        "a: &a [[*a]]\n",
    ],
    ids=["bomb", "mapping in itself", "list in itself"],
)
def test_a_config_without_end_is_damage(sweep: Path, text: str) -> None:
    next((sweep / "cifar10/dcgan/sn").iterdir()).joinpath("config.yaml").write_text(
        f"format: {CONFIG_FORMAT}\n{text}"
    )
    runs, damaged = find(sweep)
    assert (len(runs), len(damaged)) == (5, 1)
    assert "format" not in damaged[0].reason


def test_nothing_steers_a_terminal(sweep: Path) -> None:
    file = next((sweep / "cifar10/dcgan/sn").iterdir()) / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["norm"]["name"] = "\x1b[2Jsn\r"
    file.write_text(yaml.safe_dump(config))
    runs, _ = find(sweep)
    assert all("\x1b" not in label(run, ["norm.name"]) for run in runs)


def test_a_flat_config_has_every_leaf() -> None:
    flat = flatten({"a": {"b": 1, "c": {}}, "d": [1, "x"], "e": None, "f": [{"g": True}]})
    assert flat == {"a.b": 1, "a.c": "{}", "d": '[1, "x"]', "e": None, "f.0.g": True}


def test_the_fewest_settings_tell_runs_apart(sweep: Path) -> None:
    runs, _ = find(sweep)
    assert {"seed", "norm.name", "norm.scale"} <= set(differing(runs))
    assert settings(runs) == ["norm.name"]  # which decides scale and estimator; the seed is no setting
    make_run(sweep, "bssn", 0, rows=4, grids=0, norm__scale=2.0)
    runs, _ = find(sweep)
    assert settings(runs) == ["norm.name", "norm.scale"]
    assert {label(run, settings(runs)) for run in runs} == {
        "none · scale=1",
        "sn · scale=1",
        "bssn · scale=1.2",
        "bssn · scale=2",
    }


def test_what_changes_no_result_is_no_setting(sweep: Path) -> None:
    make_run(sweep / "elsewhere", "sn", 5, rows=4, grids=0, device="cuda:1", train__log_every=7)
    runs, _ = find(sweep)
    assert "device" in differing(runs)
    assert "device" not in settings(where(runs, ["norm=sn"]))


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        (["norm=sn"], 2),
        (["norm=sn,bssn", "seed=1"], 2),
        (["norm.scale=1.20"], 2),
        (["norm.estimator=null"], 2),
        (["dataset=cifar10", "fresh=false"], 6),
    ],
)
def test_conditions(sweep: Path, conditions: list[str], count: int) -> None:
    assert len(where(find(sweep)[0], conditions)) == count


@pytest.mark.parametrize(
    ("conditions", "word"),
    [(["norm"], "key=value"), (["nrm=sn"], "norm"), (["norm=x"], "no run meets norm=x")],
)
def test_a_wrong_condition_says_how_to_mend_it(sweep: Path, conditions: list[str], word: str) -> None:
    with pytest.raises(UserError, match=word):
        where(find(sweep)[0], conditions)


def test_an_axis_stands_for_its_name(sweep: Path) -> None:
    runs, _ = find(sweep)
    assert find_key(runs, "norm") == "norm.name"
    assert find_key(runs, "norm.scale") == "norm.scale"


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run"):
        find(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        find(tmp_path / "nowhere")


def test_natural_order() -> None:
    names = ["seed10", "seed2", "a1.5b", "a1.25b", "a"]
    assert sorted(names, key=natural) == ["a", "a1.25b", "a1.5b", "seed2", "seed10"]
