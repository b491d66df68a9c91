"""Judge a run, a generator, a checkpoint or a folder of images: `python scripts/evaluate.py <what>`."""

import sys

from gan_lab.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
