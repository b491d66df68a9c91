"""Images of a trained generator: `python scripts/generate.py <run> --num 64 --out grid.png` (or a folder)."""

import sys

from gan_lab.commands.generate import main

if __name__ == "__main__":
    sys.exit(main())
