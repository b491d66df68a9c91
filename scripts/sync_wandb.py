"""All runs of a folder to W&B, as often as one likes: `python scripts/sync_wandb.py outputs/`."""

from gan_lab import terminal
from gan_lab.commands.sync_wandb import main

if __name__ == "__main__":
    terminal.run(main)
