"""Make a dataset's array before training: `python scripts/prepare_data.py cifar10`; see docs/data.md."""

from gan_lab import terminal
from gan_lab.commands.prepare_data import main

if __name__ == "__main__":
    terminal.run(main)
