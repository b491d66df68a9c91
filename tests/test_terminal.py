"""What the commands print, to streams of any encoding, to closed ones, and to readers that leave."""

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from synthetic_runs import make_sweep

from gan_lab import terminal
from gan_lab.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted([ROOT / "train.py", *(ROOT / "scripts").glob("*.py")])
TABLES = [["scripts/compare.py"], ["scripts/sweep_status.py", "--once"]]
tables = pytest.mark.parametrize("command", TABLES, ids=["compare", "sweep_status"])
tables_and_help = pytest.mark.parametrize(
    "command", [*TABLES, ["train.py", "--help"]], ids=["compare", "sweep_status", "train"]
)
BROKEN_PIPE = 141  # as a shell sees a program that SIGPIPE ended


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of two seeds, and a run in a folder whose name is in none of the small encodings."""
    root = tmp_path_factory.mktemp("outputs")
    make_sweep(root, ["sn", "bssn"], [], seeds=2, rows=4, grids=0)
    make_sweep(root / "σ", ["none"], [], seeds=1, rows=4, grids=0)
    return root


def call(
    command: Sequence[str], folder: Path, redirect: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs a Python command, its streams as the shell's `redirect` leaves them."""
    line = f'exec "$@" {redirect}'
    return subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, str(ROOT / command[0]), *command[1:]],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


def without_reader(command: Sequence[str], folder: Path, **streams: int) -> tuple[int, bytes]:
    """Runs a command whose output nobody reads, as after `| true`; returns its exit status and its errors."""
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if streams.get("stderr") == subprocess.STDOUT else subprocess.PIPE
    command = [sys.executable, str(ROOT / command[0]), *command[1:]]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=writer, stderr=errors)
    os.close(writer)
    return done.returncode, done.stderr or b""


def test_every_command_begins_with_the_same_care() -> None:
    assert len(SCRIPTS) >= 9
    for script in SCRIPTS:
        last = ast.parse(script.read_text()).body[-1]
        assert isinstance(last, ast.If), script
        assert ast.unparse(last.body[-1]).startswith("terminal.run("), script


@tables
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "utf-8"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=["latin-1", "ascii", "utf-8", "C"],
)
def test_tables_are_printed_in_any_encoding(
    outputs: Path, tmp_path: Path, command: list[str], environment: dict[str, str]
) -> None:
    done = call([*command, str(outputs)], tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(environment.get("PYTHONIOENCODING", "ascii").partition(":")[0])
    assert "bssn" in text
    if "compare" in command[0]:
        assert (" ± " in text) or (" +- " in text)
        marks = "≈°" if " ≈" in text else "~o"  # inside the noise and untested stay apart
        assert all(f"{mark} " in text for mark in marks)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("seed=-1 is negative: take another"), 2, "error: seed=-1 is negative: take another\n"),
        (
            PermissionError(13, "Permission denied", "a/file"),
            2,
            "error: a/file cannot be used (Permission denied): mend that, or give another place\n",
        ),
        (ConnectionError("the server is gone"), 2, "error: the server is gone\n"),
        (KeyboardInterrupt(), 130, "stopped: "),
    ],
)
def test_what_is_wrong_is_one_sentence(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise error

    assert terminal.exit_status(main) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert printed.err.count("\n") == 1


def test_a_command_s_own_status_is_kept() -> None:
    assert [terminal.exit_status(lambda status=status: status) for status in (None, 0, 1)] == [0, 0, 1]


@tables
def test_what_is_wrong_is_said_in_any_encoding(tmp_path: Path, command: list[str]) -> None:
    done = call([*command, "nowhere σ"], tmp_path, PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: nowhere sigma is no folder")


@tables_and_help
def test_a_reader_that_leaves_ends_it_quietly(outputs: Path, tmp_path: Path, command: list[str]) -> None:
    given = [] if "train.py" in command else [str(outputs)]
    status = 0 if given == [] else BROKEN_PIPE  # training is not ended by its reader
    assert without_reader([*command, *given], tmp_path) == (status, b"")
    assert without_reader([*command, *given], tmp_path, stderr=subprocess.STDOUT) == (status, b"")


@tables_and_help
@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(
    outputs: Path, tmp_path: Path, command: list[str], redirect: str
) -> None:
    given = [] if "train.py" in command else [str(outputs)]
    done = call([*command, *given], tmp_path, redirect)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) == (redirect == "2>&-")


def test_a_sentence_for_a_closed_stream_does_not_reach_the_other(tmp_path: Path) -> None:
    done = call(["scripts/compare.py", "nowhere"], tmp_path, "2>&-")
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_file_gets_nothing_that_was_meant_for_a_closed_stream(outputs: Path, tmp_path: Path) -> None:
    page = tmp_path / "table.csv"
    done = call(["scripts/compare.py", str(outputs), "--csv", str(page)], tmp_path, ">&- 2>&-")
    assert done.returncode == 0
    assert page.read_text().startswith("data,group,")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@tables
def test_a_full_disk_is_one_sentence(outputs: Path, tmp_path: Path, command: list[str]) -> None:
    done = call([*command, str(outputs)], tmp_path, "> /dev/full")
    assert done.returncode == 1
    assert done.stderr == b"error: the output cannot be written (No space left on device)\n"


SWEEP = "train.py -m norm=none,sn experiment=tiny metrics=none train.iterations=2 device=cpu tracker=local"


def test_a_sweep_prints_its_table_in_any_encoding_and_needs_no_reader(tmp_path: Path, data: Path) -> None:
    places = [f"paths.data={data}", f"paths.outputs={tmp_path}/outputs"]
    done = call([*SWEEP.split(), *places], tmp_path, PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"2 finished" in done.stdout
    for again in ("seed=1", "seed=1"):  # trained, and finished before
        assert without_reader([*SWEEP.split(), again, *places], tmp_path) == (0, b"")
    assert len(list((tmp_path / "outputs").rglob("generator.safetensors"))) == 4
