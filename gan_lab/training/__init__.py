"""The trainer (one readable loop) and its checkpoints."""

from gan_lab.training.divergence import Diverged
from gan_lab.training.trainer import Interrupted, Schedule, Trainer

__all__ = ["Diverged", "Interrupted", "Schedule", "Trainer"]
