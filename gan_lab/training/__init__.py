"""The trainer (one readable loop) and its checkpoints."""

from gan_lab.training.trainer import Diverged, Interrupted, Schedule, Trainer

__all__ = ["Diverged", "Interrupted", "Schedule", "Trainer"]
