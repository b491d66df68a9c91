"""What each norm controls, measured, as a Markdown table: of all that experiment=families has, or of some.

Of operator norms and variances three are given: of the weights as they are after a short training, of ten
times these, and of weights of nearly rank one. It takes some minutes; --compile a minute more for each norm.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not installed

from benchmarks import matrix
from gan_lab import terminal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("norms", nargs="*", help="choices of norm")
    add("--iterations", type=int, default=50, help="of training before the second audit")
    add("--rounds", type=int, default=11, help="of iterations for the cost; 0: none is measured")
    add("--compile", action="store_true", help="try train.compile too")
    add("--write", type=Path, metavar="FILE", help="a Markdown file, README.md: renew its table in place")
    given = parser.parse_args()
    logging.getLogger("gan_lab").setLevel(logging.ERROR)
    chosen = given.norms or matrix.norms_there_are()
    if given.write:
        matrix.place(given.write)  # refused before minutes of measuring
    found = matrix.table(chosen, given.iterations, given.rounds, given.compile)
    print(found)
    if given.write:
        matrix.put(given.write, found)


if __name__ == "__main__":
    terminal.run(main)
