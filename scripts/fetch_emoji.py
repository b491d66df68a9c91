"""A second dataset, by npm: `python scripts/fetch_emoji.py`, then dataset=folder dataset.path=data/emoji."""

from gan_lab import terminal
from gan_lab.commands.fetch_emoji import main

if __name__ == "__main__":
    terminal.run(main)
