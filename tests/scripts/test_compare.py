"""scripts/compare.py: real and made-up runs on the command line."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from synthetic_runs import make_sweep

from gan_lab.report import records

Main = Callable[[list[str]], int]
Refused = Callable[[int], str]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    make_sweep(root, ["none", "sn", "bssn"], [], seeds=2, rows=20, grids=1)
    return root


def test_a_real_run(
    script: Callable[[str], Main],
    finished: Path,
    last_row: dict[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    assert script("compare")([str(finished.parents[3]), "--out", str(page), "--csv", str(table)]) == 0
    printed = capsys.readouterr()
    assert f"page: {page}" in printed.out
    assert printed.err == ""
    rows = list(csv.DictReader(table.read_text().splitlines()))
    final = next(row for row in rows if row["metric"] == "metric/fid_digits_60" and row["which"] == "final")
    assert float(final["mean"]) == last_row["metric/fid_digits_60"]
    assert final["seeds"] == "1"
    assert page.stat().st_size > 1_000_000


def test_conditions_grouping_and_every_form(
    script: Callable[[str], Main], sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forms = {form: tmp_path / f"table.{form}" for form in ("csv", "markdown", "latex")}
    options = [argument for form, path in forms.items() for argument in (f"--{form}", str(path))]
    assert (
        script("compare")(
            [str(sweep), "--where", "norm=sn,bssn", "dataset=cifar10", "--by", "norm", *options]
        )
        == 0
    )
    table = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line and line[0] in "bns"]
    assert table[:2] == ["bssn", "sn"]
    assert "none" not in table
    assert {row["group"] for row in csv.DictReader(forms["csv"].read_text().splitlines())} == {"bssn", "sn"}
    assert "| bssn |" in forms["markdown"].read_text()
    assert "\\begin{tabular}" in forms["latex"].read_text()


def test_damage_is_told_and_not_fatal(
    script: Callable[[str], Main], sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "half").mkdir(exist_ok=True)
    (sweep / "half" / "status.json").write_text("{")
    assert script("compare")([str(sweep)]) == 0
    assert "damaged: half: " in capsys.readouterr().err
    (sweep / "half" / "status.json").unlink()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--by", "nrm"], "did you mean norm"),
        (["--where", "norm=xyz"], "leave a condition out"),
        (["--where", "norm"], "key=value"),
        (["--out", "/dev/null"], "is no file"),
        (["--csv", "/proc/none/x.csv"], "cannot be written"),
    ],
)
def test_one_sentence_for_what_is_wrong(
    script: Callable[[str], Main], sweep: Path, refused: Refused, options: list[str], word: str
) -> None:
    assert word in refused(script("compare")([str(sweep), *options]))


@pytest.mark.parametrize(
    ("missing", "options", "extra"),
    [
        ("duckdb", [], "report"),
        ("duckdb", ["--out", "page.html"], "report"),
        ("plotly.offline", ["--out", "page.html"], "report"),
        ("wandb_workspaces.reports.v2", ["--wandb", "project"], "wandb-report"),
    ],
)
def test_a_missing_package_is_said_once_with_the_command_that_installs_it(
    script: Callable[[str], Main],
    sweep: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    options: list[str],
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("wandb.login", lambda **_: True)
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(default_entity="somebody"))
    records._connection.cache_clear()
    assert script("compare")([str(sweep), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert missing.partition(".")[0].replace("_", "-") in line
    assert f"pip install -e '.[{extra}]'" in line


def test_no_runs(script: Callable[[str], Main], tmp_path: Path, refused: Refused) -> None:
    assert "no run" in refused(script("compare")([str(tmp_path)]))


def test_nothing_heavy_is_imported(sweep: Path, tmp_path: Path) -> None:
    """A table takes no second where PyTorch alone takes several to start."""
    code = (
        "import runpy, sys, json\n"
        f"sys.argv = ['compare.py', {str(sweep)!r}, '--out', {str(tmp_path / 'page.html')!r}]\n"
        "try:\n    runpy.run_path('scripts/compare.py', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "print(json.dumps([name for name in ('torch', 'hydra', 'wandb', 'pandas') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
