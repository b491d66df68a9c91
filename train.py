"""Train one GAN, or sweep many: `python train.py norm=bssn dataset=digits`; `python train.py --help`."""

from gan_lab import terminal
from gan_lab.commands.train import main

if __name__ == "__main__":
    terminal.run(main, goes_on=True)
