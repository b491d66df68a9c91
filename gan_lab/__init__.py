"""Which normalization trains a GAN best, and why."""

__version__ = "0.1.0"
