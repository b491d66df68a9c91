"""Runs side by side: `python scripts/compare.py outputs/ [--by norm] [--out report.html]`."""

from gan_lab import terminal
from gan_lab.commands.compare import main

if __name__ == "__main__":
    terminal.run(main)
