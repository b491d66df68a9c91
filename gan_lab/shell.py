"""How this package's commands are typed in a shell: from a checkout or as an installed program."""

import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "gan-lab"
CHECKOUT = Path(__file__).resolve().parent.parent


def command(name: str, *arguments: str) -> str:
    """The line that runs the command `name` (`train`, `generate`, ...) as this process was started.

    That is `python train.py` or `python scripts/<name>.py` in a checkout, `gan-lab <name>` elsewhere; with
    their paths where the shell would not find them, or others.
    """
    script = "train.py" if name == "train" else f"scripts/{name.replace('-', '_')}.py"
    if sys.argv[0].startswith(f"{PROGRAM} ") or not (CHECKOUT / script).is_file():
        return shlex.join([_findable(PROGRAM, Path(sys.executable).with_name(PROGRAM)), name, *arguments])
    return shlex.join([_findable("python", Path(sys.executable)), _from_here(CHECKOUT / script), *arguments])


def quoted(text: str) -> str:
    """The text as a value that Hydra's grammar reads to the letter."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.double).with_quotes()


def _findable(name: str, file: Path) -> str:
    """A program's name, or its path where the name stands for another one, as outside an environment."""
    found = shutil.which(name)
    if (found and Path(found).absolute().parent == file.parent) or not file.is_file():
        return name
    return _from_here(file)


def _from_here(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)
