"""FID, IS, KID, precision and recall of generated images, by torch-fidelity's arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from gan_lab.data import ImageArray
from gan_lab.distributed import collectives
from gan_lab.errors import UserError
from gan_lab.metrics.extractors import Extractor
from gan_lab.metrics.features import Counts, Gathered, gather, of_real

METRICS = ("fid", "is", "kid", "prc")
NEIGHBORS = 3  # k of precision and recall (Kynkäänniemi et al. 2019, section 3)


@dataclass(frozen=True)
class Protocol:
    """What is measured, on how many images; figures of different protocols do not compare.

    - `is`: IS (Salimans et al. 2016) of `num_generated` images in `is_splits` splits.
    - `fid`: FID (Heusel et al. 2017) of the first `num_fid` of them against `num_real` real ones.
    - `kid`: KID (Bińkowski et al. 2018), 100 subsets of `kid_subset_size` out of the first `num_kid_prc`
      generated and as many real images.
    - `prc`: precision and recall (Kynkäänniemi et al. 2019), k = 3, of the same images as KID.

    A number of images is an upper bound: of fewer, all are taken, as they are for None.

    Precision and recall take the same features as FID, where their paper takes VGG-16's.
    """

    num_generated: int
    num_fid: int | None = None
    num_real: int | None = None
    num_kid_prc: int | None = 10_000
    is_splits: int = 10
    kid_subset_size: int = 1000
    metrics: tuple[str, ...] = ("fid", "is")
    suffix: str = ""  # ends the names of metrics that must not be taken for the usual ones

    def counts(self, available: int, for_fid: int | None) -> Counts:
        """How many of the available images each metric takes, 0 for those not asked for."""
        wants_features = "kid" in self.metrics or "prc" in self.metrics
        return Counts(
            fid=min(for_fid or available, available) if "fid" in self.metrics else 0,
            kid_prc=min(self.num_kid_prc or available, available) if wants_features else 0,
        )


class Evaluator:
    """Judges generated images against those of `real` by an extractor's features, under a protocol.

    What is known of the real images is cached in `cache` under a key of everything that it depends on. Raises
    UserError where there are too few images for the protocol.
    """

    def __init__(
        self, extractor: Extractor, real: ImageArray, cache: Path, protocol: Protocol, batch_size: int = 64
    ) -> None:
        self._extractor = extractor
        self._protocol = protocol
        self._batch_size = batch_size
        self._generated = protocol.counts(protocol.num_generated, protocol.num_fid)
        counts = protocol.counts(len(real.images), protocol.num_real)
        _refuse_too_few(protocol, self._generated, counts)
        self._statistics, self._features = of_real(real, counts, extractor, cache, batch_size)

    def evaluate(self, generate: Callable[[int, int], Tensor]) -> dict[str, float]:
        """`metric/fid`, `is_mean`, `is_std`, `kid_mean`, `kid_std`, `precision`, `recall`: those asked for.

        `generate(start, stop)` makes the images with these numbers, uint8 `[stop - start, 3, H, W]`. The
        suffixes of the extractor and of the protocol are in the names, as in `metric/is_digits_mean`.
        """
        protocol = self._protocol
        wants_is = "is" in protocol.metrics
        number = torch.arange(protocol.num_generated if wants_is else max(self._generated))
        gathered = gather(
            self._extractor,
            generate,
            for_fid=number < self._generated.fid,
            for_kid_prc=number < self._generated.kid_prc,
            keep_logits=wants_is,
            batch_size=self._batch_size,
            is_shared=True,
        )
        return collectives.on_rank_zero(lambda: self._values(gathered))()

    def _values(self, gathered: Gathered) -> dict[str, float]:
        protocol = self._protocol
        moments, features, logits = gathered
        suffix = self._extractor.suffix + protocol.suffix
        values: dict[str, float] = {}
        if "fid" in protocol.metrics:
            fid = fid_statistics_to_metric(moments.statistics(), self._statistics, verbose=False)
            values[f"metric/fid{suffix}"] = fid[KEY_METRIC_FID]
        if "is" in protocol.metrics:
            inception_score = isc_features_to_metric(logits, splits=protocol.is_splits)
            values[f"metric/is{suffix}_mean"] = inception_score[KEY_METRIC_ISC_MEAN]
            values[f"metric/is{suffix}_std"] = inception_score[KEY_METRIC_ISC_STD]
        generated, real = features.double(), self._features.double()
        if "kid" in protocol.metrics:
            size = protocol.kid_subset_size
            kid = kid_features_to_metric(generated, real, kid_subset_size=size, verbose=False)
            values[f"metric/kid{suffix}_mean"] = kid[KEY_METRIC_KID_MEAN]
            values[f"metric/kid{suffix}_std"] = kid[KEY_METRIC_KID_STD]
        if "prc" in protocol.metrics:
            prc = prc_features_to_metric(
                generated,
                real,
                prc_neighborhood=NEIGHBORS,
                prc_batch_size=1000,
                save_cpu_ram=True,  # never the whole matrix of distances at once
                verbose=False,
            )
            values[f"metric/precision{suffix}"] = prc[KEY_METRIC_PRECISION]
            values[f"metric/recall{suffix}"] = prc[KEY_METRIC_RECALL]
        return values


def _refuse_too_few(protocol: Protocol, generated: Counts, real: Counts) -> None:
    if "fid" in protocol.metrics and (fewest := min(generated.fid, real.fid)) < 2:
        raise UserError(f"FID needs at least 2 images on either side, not {fewest}: give it more")
    if "is" in protocol.metrics and protocol.is_splits > protocol.num_generated:
        raise UserError(
            f"metrics.is_splits={protocol.is_splits} exceeds the {protocol.num_generated} images: lower it"
        )
    fewest = min(generated.kid_prc, real.kid_prc)
    if "kid" in protocol.metrics and protocol.kid_subset_size > fewest:
        raise UserError(
            f"metrics.kid_subset_size={protocol.kid_subset_size} exceeds the {fewest} images of KID: lower it"
        )
    if "prc" in protocol.metrics and fewest <= NEIGHBORS:
        raise UserError(f"precision and recall need more than {NEIGHBORS} images, not {fewest}: give more")
