"""How this package's commands are typed in a shell: from a checkout or as an installed program."""

import shlex
import sys
from pathlib import Path

PROGRAM = "gan-lab"
CHECKOUT = Path(__file__).resolve().parent.parent


def command(name: str, *arguments: str) -> str:
    """The line that runs the command `name` (`train`, `generate`, ...) as this process was started.

    That is `python train.py` or `python scripts/<name>.py` in a checkout, `gan-lab <name>` elsewhere.
    """
    script = "train.py" if name == "train" else f"scripts/{name.replace('-', '_')}.py"
    if sys.argv[0].startswith(f"{PROGRAM} ") or not (CHECKOUT / script).is_file():
        return shlex.join([PROGRAM, name, *arguments])
    return shlex.join(["python", script, *arguments])
