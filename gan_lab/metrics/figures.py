"""The metrics of two sets of features, by torch-fidelity's arithmetic.

Imported when something is judged: torch-fidelity brings torchvision, which takes longer than a first step.
"""

from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from gan_lab.metrics.cache import Arrays


def fid(generated: Arrays, real: Arrays) -> list[float]:
    """FID of two sets' `mu [F]` and `sigma [F, F]`."""
    return [fid_statistics_to_metric(generated, real, verbose=False)[KEY_METRIC_FID]]


def inception_score(logits: Tensor, splits: int) -> list[float]:
    """Mean and standard deviation over the splits of logits `[N, C]`."""
    score = isc_features_to_metric(logits, splits=splits)
    return [score[KEY_METRIC_ISC_MEAN], score[KEY_METRIC_ISC_STD]]


def kid(generated: Tensor, real: Tensor, subset_size: int) -> list[float]:
    """Mean and standard deviation over 100 subsets of features `[n, F]` and `[m, F]` in float64."""
    found = kid_features_to_metric(generated, real, kid_subset_size=subset_size, verbose=False)
    return [found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]]


def precision_and_recall(generated: Tensor, real: Tensor, neighbors: int) -> list[float]:
    """By the balls that reach to each one's k-th neighbor, of features `[n, F]` and `[m, F]` in float64."""
    found = prc_features_to_metric(
        generated,
        real,
        prc_neighborhood=neighbors,
        prc_batch_size=1000,
        save_cpu_ram=True,  # never the whole matrix of distances at once
        verbose=False,
    )
    return [found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]]
