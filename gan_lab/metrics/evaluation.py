"""FID and IS in one pass over the generated images, against statistics of real images computed once."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

from gan_lab.data import ImageArray
from gan_lab.files import replacing
from gan_lab.metrics.extractors import Extractor
from gan_lab.streams import stream

Statistics = dict[str, np.ndarray]  # torch-fidelity's: mu [F], sigma [F, F], both float64


class Evaluator:
    """Judges generated images by an extractor's features.

    FID (Heusel et al. 2017) of `num_generated` images against `num_real` images of `real` (None: all), and IS
    (Salimans et al. 2016) in `is_splits` splits. The real statistics are cached in `cache` under a key of
    everything that they depend on.
    """

    def __init__(
        self,
        extractor: Extractor,
        real: ImageArray,
        cache: Path,
        num_generated: int,
        num_real: int | None = None,
        is_splits: int = 10,
        batch_size: int = 64,
    ) -> None:
        self._extractor = extractor
        self._num_generated = num_generated
        self._is_splits = is_splits
        self._batch_size = batch_size
        self._device = next(extractor.network.parameters()).device
        self._real = self._real_statistics(real, min(num_real or len(real.images), len(real.images)), cache)

    def evaluate(self, generate: Callable[[int, int], Tensor]) -> dict[str, float]:
        """`{metric/fid, metric/is_mean, metric/is_std}`, the names with the extractor's suffix.

        `generate(start, stop)` makes the images with these numbers, uint8 `[stop - start, 3, H, W]`.
        """
        features, logits = self._extract(generate(start, stop) for start, stop in self._ranges(self._num_generated))
        fid = fid_statistics_to_metric(fid_features_to_statistics(features), self._real, verbose=False)
        inception_score = isc_features_to_metric(logits, splits=self._is_splits)
        suffix = self._extractor.suffix
        return {
            f"metric/fid{suffix}": fid[KEY_METRIC_FID],
            f"metric/is{suffix}_mean": inception_score[KEY_METRIC_ISC_MEAN],
            f"metric/is{suffix}_std": inception_score[KEY_METRIC_ISC_STD],
        }

    def _ranges(self, count: int) -> Iterator[tuple[int, int]]:
        for start in range(0, count, self._batch_size):
            yield start, min(start + self._batch_size, count)

    @torch.no_grad()
    def _extract(self, batches: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
        """Features `[N, F]` and logits `[N, C]` of uint8 batches, in float64 on the host."""
        outputs = [self._extractor.network(batch.to(self._device)) for batch in batches]
        features, logits = (torch.cat(parts).double().cpu() for parts in zip(*outputs, strict=True))
        return features, logits

    def _real_statistics(self, real: ImageArray, count: int, cache: Path) -> Statistics:
        depends_on = [real.fingerprint, self._extractor.weights_sha256, count]
        key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
        path = cache / f"real-statistics-{key}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        chosen = torch.randperm(len(real.images), generator=stream(0, "real images of metrics"))[:count].sort()[0]
        index = chosen.numpy()
        features, _ = self._extract(torch.from_numpy(real.images[index[a:b]]) for a, b in self._ranges(count))
        statistics = fid_features_to_statistics(features)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **statistics)
        return statistics
