"""One interface, several sinks: local JSON lines (always), W&B, TensorBoard."""

from gan_lab.tracking.base import Guarded, Tracker
from gan_lab.tracking.jsonl import JsonLines

__all__ = ["Guarded", "JsonLines", "Tracker"]
