"""FID, IS, KID, precision, recall, density and coverage, in one pass over the samples.

The way through it: extractors (networks) -> features (one pass; real ones cached) -> evaluation (metrics).
"""

from gan_lab.metrics.evaluation import METRICS, Evaluator, Protocol, evaluator
from gan_lab.metrics.extractors import inception_weights

__all__ = ["METRICS", "Evaluator", "Protocol", "evaluator", "inception_weights"]
