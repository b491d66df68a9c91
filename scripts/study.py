"""What a sweep says, as a chapter: `python scripts/study.py outputs/ [--out docs/study/scale]`."""

from gan_lab import terminal
from gan_lab.commands.study import main

if __name__ == "__main__":
    terminal.run(main)
