"""Judge runs, generators, checkpoints or folders of images: `python scripts/evaluate.py <what> ...`."""

from gan_lab import terminal
from gan_lab.commands.evaluate import main

if __name__ == "__main__":
    terminal.run(main)
