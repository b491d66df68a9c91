"""The command lines over the package, a module each: `main` returns the exit status."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gan_lab.report.runs import Damaged


def add_where(parser: argparse.ArgumentParser) -> None:
    """The option that chooses among runs; `gan_lab.report.runs.where` reads its values."""
    parser.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="only these runs"
    )


def name_damaged(damaged: "Sequence[Damaged]") -> None:
    """What cannot be read and was left out, a line each on stderr."""
    for trouble in damaged:
        print(f"damaged: {trouble.name}: {trouble.reason}", file=sys.stderr)


def a_path(text: str) -> Path:
    """A path of the command line, with its `~`, which shells leave in `--out=~/grid.png` and in quotes."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text} names the home of nobody here") from error
