"""Runs side by side: `python scripts/compare.py outputs/ [--by norm] [--out report.html]`."""

import sys

from gan_lab.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
