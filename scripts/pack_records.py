"""Many runs' records in one small file: `python scripts/pack_records.py outputs/ --out runs.tar.xz`."""

from gan_lab import terminal
from gan_lab.commands.pack_records import main

if __name__ == "__main__":
    terminal.run(main)
