"""FID and IS through torch-fidelity: extractors, cached statistics of real images, one pass over samples."""

from gan_lab.metrics.evaluation import Evaluator

__all__ = ["Evaluator"]
