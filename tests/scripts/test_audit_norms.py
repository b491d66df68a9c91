"""scripts/audit_norms.py: a table that agrees with the checkpoint's weights, or one sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

Main = Callable[[list[str]], int]
Refused = Callable[[int], str]
SMALL = ["arch.width=0.03", "dataset=digits"]
LAYERS = [*(f"conv{index}" for index in range(7)), "linear"]


@pytest.fixture
def audit_norms(script: Callable[[str], Main]) -> Callable[..., int]:
    main = script("audit_norms")
    return lambda *arguments: main([str(argument) for argument in arguments])


def parse(printed: str) -> tuple[str, dict[str, dict[str, str]], str]:
    """(title, {layer: {column: text}}, the last line)."""
    title, head, *lines = printed.strip().splitlines()
    rows = [dict(zip(head.split(), line.split(maxsplit=8), strict=True)) for line in lines[:-2]]
    assert lines[-2] == ""
    return title, {row["layer"]: row for row in rows}, lines[-1]


def test_a_run_is_audited_at_its_newest_checkpoint(
    audit_norms: Callable[..., int], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit_norms(finished) == 0
    title, rows, last = parse(capsys.readouterr().out)
    assert title == f"discriminator of {finished} after iteration 3"
    assert list(rows) == LAYERS
    state = torch.load(finished / "checkpoints/00000003.pt", weights_only=True)["discriminator"]
    product = 1.0
    for layer, row in rows.items():
        norm = f"{layer}.parametrizations.weight"
        weight = state[f"{norm}.original"].double().numpy()
        halves = []
        # The order that the stored vectors have: the tap before the input channel.
        by_tap = np.moveaxis(weight, 1, -1)
        for side, rows_of in (("out", len(weight)), ("in", weight[:, 0].size)):
            matrix = by_tap.reshape(rows_of, -1)
            exact = np.linalg.norm(matrix, 2)
            assert float(row[f"sigma_{side}"]) == pytest.approx(exact, rel=1e-4)
            u, v = (state[f"{norm}.0.estimator.sigma_{side}.{vector}"][0].numpy().ravel() for vector in "uv")
            halves.append((u @ matrix @ v, exact))
        estimated, exact = np.mean(halves, axis=0)
        assert float(row["estimated"]) == pytest.approx(estimated, rel=1e-4)
        assert float(row["exact"]) == pytest.approx(exact, rel=1e-4)
        assert float(row["error"].rstrip("%")) == pytest.approx(100 * (1 - estimated / exact), abs=0.01)
        assert float(row["effective"]) == pytest.approx(1.2 * float(row["sigma_op"]) / estimated, rel=1e-4)
        product *= float(row["effective"])
    assert float(last.split()[2].rstrip(":")) == pytest.approx(product, rel=1e-3)


def test_a_checkpoint_by_name(
    audit_norms: Callable[..., int], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for number in (2, 3):
        assert audit_norms(finished / f"checkpoints/0000000{number}.pt") == 0
        title, rows, _ = parse(capsys.readouterr().out)
        assert title.endswith(f"after iteration {number}")
        tables.append(rows)
    assert tables[0] != tables[1]


def test_overrides_describe_the_network_before_training(
    audit_norms: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*SMALL, "norm=strict_sn", "norm.warmup_iterations=2000", "norm.scale=1.5"]
    assert audit_norms(*overrides) == 0
    title, rows, last = parse(capsys.readouterr().out)
    assert title == " ".join(["discriminator before training:", *overrides])
    for row in rows.values():
        assert float(row["estimated"]) == pytest.approx(float(row["sigma_op"]), rel=5e-3)
        assert float(row["effective"]) == pytest.approx(1.5, rel=5e-3)
    assert last.startswith("Lipschitz bound ")
    assert float(last.split()[2].rstrip(":")) == pytest.approx(1.5**8, rel=2e-2)


def test_generators_and_networks_without_a_norm(
    audit_norms: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit_norms(*SMALL, "norm=none", "--network", "generator", "arch=resnet") == 0
    title, rows, last = parse(capsys.readouterr().out)
    assert title.startswith("generator before training")
    assert len(rows) == 11
    for row in rows.values():
        assert row["estimated"] == row["exact"] == row["error"] == "-"
        assert row["effective"] == row["sigma_op"]
    assert last.startswith("Lipschitz bound ")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nowhere"], "nowhere is neither a run's directory nor an override"),
        (["norm=nothing"], "Could not find 'norm/nothing'"),
        (["norm.scael=1", "arch.width=0.1"], "norm.scael is no key of the config: take norm.scale"),
        (["dataset.image_size=33"], "arch=dcgan has no shape for dataset.image_size=33"),
    ],
)
def test_wrong_arguments_are_refused(
    audit_norms: Callable[..., int], refused: Refused, arguments: list[str], word: str
) -> None:
    assert word in refused(audit_norms(*arguments))


def test_no_code_that_a_run_names_is_called(
    audit_norms: Callable[..., int], refused: Refused, finished: Path, tmp_path: Path
) -> None:
    run, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(finished, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["norm"]["estimator"] = {"_target_": "pathlib.Path.touch", "self": str(mark)}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "--allow pathlib.Path" in refused(audit_norms(run))
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["no checkpoint", "another network", "a cut file", "no config"])
def test_spoilt_runs_are_refused_and_left_as_they_are(
    audit_norms: Callable[..., int], refused: Refused, finished: Path, tmp_path: Path, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = run / "checkpoints/00000003.pt"
    if damage == "no checkpoint":
        shutil.rmtree(run / "checkpoints")
    elif damage == "another network":
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["arch"]["discriminator"]["width"] = 0.5
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    elif damage == "a cut file":
        newest.write_bytes(newest.read_bytes()[:-100])
    else:
        (run / "config.yaml").unlink()
    before = sorted(path.name for path in run.rglob("*"))
    words = {
        "no checkpoint": "no checkpoint yet",
        "another network": "does not hold the discriminator",
        "a cut file": "is damaged",
        "no config": "is not a run directory",
    }
    assert words[damage] in refused(audit_norms(run))
    assert sorted(path.name for path in run.rglob("*")) == before


def test_help_explains_the_columns(
    audit_norms: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        audit_norms("--help")
    printed = capsys.readouterr().out
    for column in ("estimated", "exact", "sigma_out, sigma_in, sigma_op", "effective", "method"):
        assert f"\n{column}" in printed
