"""The program `gan-lab`, and the lines that messages tell people to type."""

import importlib
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import gan_lab
from gan_lab import __main__ as program
from gan_lab import shell

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", program.COMMANDS)
def test_a_command_and_its_script_are_one_function(name: str) -> None:
    module = importlib.import_module(f"gan_lab.commands.{name.replace('-', '_')}")
    script = ROOT / shlex.split(shell.command(name))[1]
    assert f"from {module.__name__} import main" in script.read_text()


@pytest.mark.parametrize("name", [name for name in program.COMMANDS if name != "train"])
def test_a_command_calls_itself_by_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gan-lab", name, "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        program.main()
    assert capsys.readouterr().out.startswith(f"usage: gan-lab {name} ")


@pytest.mark.parametrize(
    ("arguments", "answer"), [(["--version"], gan_lab.__version__), ([], "prepare-data")]
)
def test_what_the_program_says_of_itself(
    arguments: list[str], answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gan-lab", *arguments])
    assert program.main() == 0
    assert answer in capsys.readouterr().out


def test_an_unknown_command_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gan-lab", "tarin"])
    assert program.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: gan-lab tarin is not a command")
    assert all(name in line for name in program.COMMANDS)


@pytest.mark.parametrize("name", program.COMMANDS)
def test_a_line_to_type_is_of_the_kind_that_was_typed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    python, script, *rest = shlex.split(shell.command(name, "my outputs", "seed=0,1"))
    assert (python, rest) == ("python", ["my outputs", "seed=0,1"])
    assert (ROOT / script).is_file()
    monkeypatch.setattr(sys, "argv", ["gan-lab train"])
    assert shlex.split(shell.command(name, "my outputs")) == ["gan-lab", name, "my outputs"]
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(shell, "CHECKOUT", ROOT / "gan_lab")  # an installed package has no scripts
    assert shell.command(name) == f"gan-lab {name}"


@pytest.mark.parametrize("environment", ["on PATH", "not on PATH", "another on PATH"])
@pytest.mark.parametrize("is_program", [False, True])
def test_a_line_to_type_works_where_it_was_typed(
    environment: str, is_program: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any directory, and where another Python or none is the one that the shell finds."""
    places = {name: tmp_path / name / "bin" for name in ("ours", "another")}
    for place in places.values():
        place.mkdir(parents=True)
        for name in ("python", "gan-lab"):
            (place / name).touch(mode=0o755)
    path = {"on PATH": "ours", "not on PATH": "", "another on PATH": "another"}[environment]
    monkeypatch.setenv("PATH", str(places[path]) if path else str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "executable", str(places["ours"] / "python"))
    monkeypatch.setattr(sys, "argv", ["gan-lab train" if is_program else "train.py"])
    for here in (tmp_path, ROOT):
        monkeypatch.chdir(here)
        program, second, *rest = shlex.split(shell.command("train", "seed=0"))
        found = shutil.which(program) or program
        assert Path(found).resolve() == places["ours"] / ("gan-lab" if is_program else "python")
        assert rest == ["seed=0"]
        assert second == "train" if is_program else Path(second).resolve() == ROOT / "train.py"
