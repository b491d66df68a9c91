"""The command lines over the package, a module each: `main` returns the exit status."""

import argparse
from pathlib import Path


def a_path(text: str) -> Path:
    """A path of the command line, with its `~`, which shells leave in `--out=~/grid.png` and in quotes."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text} names the home of nobody here") from error
