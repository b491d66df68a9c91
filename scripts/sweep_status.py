"""How a sweep stands: `python scripts/sweep_status.py outputs/`, live; exit 1 if a run needs a person."""

from gan_lab import terminal
from gan_lab.commands.sweep_status import main

if __name__ == "__main__":
    terminal.run(main)
