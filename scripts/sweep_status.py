"""How a sweep stands: `python scripts/sweep_status.py outputs/`, live; exit 1 if a run needs a person."""

import sys

from gan_lab.commands.sweep_status import main

if __name__ == "__main__":
    sys.exit(main())
