"""Images of a trained generator: `python scripts/generate.py <run> --num 64 --out grid.png` (or a folder)."""

from gan_lab import terminal
from gan_lab.commands.generate import main

if __name__ == "__main__":
    terminal.run(main)
