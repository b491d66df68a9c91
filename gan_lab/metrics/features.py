"""From images to what the metrics need of them, in one pass; of real images once, then cached on disk."""

import logging
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from gan_lab.data import ImageArray
from gan_lab.data.array import read_rows
from gan_lab.device import upload
from gan_lab.distributed import collectives, env
from gan_lab.metrics import cache
from gan_lab.metrics.extractors import Extractor
from gan_lab.metrics.moments import Moments
from gan_lab.rng import stream

log = logging.getLogger(__name__)

FORMAT = 1  # raised when what is cached changes its meaning


class Counts(NamedTuple):
    """How many images FID's mean and covariance are of, and how many KID, precision and recall compare."""

    fid: int
    kid_prc: int


class Gathered(NamedTuple):
    """What one pass over images leaves, in float32 on the extractor's device but for the moments."""

    moments: Moments  # of the features of images in the first mask
    features: Tensor  # [n, F], of images in the second mask
    logits: Tensor  # [N, C], [0, C] if they are not kept


def gather(
    extractor: Extractor,
    images: Callable[[int, int], Tensor],
    for_fid: Tensor,
    for_kid_prc: Tensor,
    keep_logits: bool,
    batch_size: int,
    is_shared: bool = False,
) -> Gathered:
    """One pass over N images; the masks `[N]` say which of them are for what.

    `images(start, stop)` makes the images with these numbers, uint8 `[stop - start, 3, H, W]`. Nothing here
    waits for a GPU but every few thousand images, so that it judges one batch while the host makes the next.
    With `is_shared` each rank makes and judges batches of its own: those of a single process, in its order.
    """

    judge = _InParts(lambda start, stop: extractor(images(start, stop)))
    count = len(for_fid)
    stride = batch_size * env.world_size() if is_shared else batch_size
    moments, features, logits = Moments(), [], []
    with tqdm(total=count, desc="judging", unit="image", leave=False, delay=5, disable=None) as bar:
        for start in range(0, count, stride):
            stop = min(start + stride, count)
            if is_shared:
                batch_features, batch_logits = collectives.in_shards(judge, start, stop, batch_size)
            else:
                batch_features, batch_logits = judge(start, stop)
            moments.add(_chosen(batch_features, for_fid[start:stop]))
            features.append(_chosen(batch_features, for_kid_prc[start:stop]))
            logits.append(batch_logits if keep_logits else batch_logits[:0])
            bar.update(stop - start)
    return Gathered(moments, torch.cat(features), torch.cat(logits))


class _InParts:
    """A function of images' numbers, called for fewer of them at once where a GPU's memory ends."""

    def __init__(self, judge: Callable[[int, int], tuple[Tensor, Tensor]]) -> None:
        self._judge = judge
        self._most = sys.maxsize

    def __call__(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        while True:
            size = min(self._most, stop - start)
            try:
                parts = [self._judge(first, min(first + size, stop)) for first in range(start, stop, size)]
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self._most = size // 2
                log.warning(
                    "the GPU's memory is too small for %d images at once: judging %d", size, self._most
                )
            else:
                return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, logits = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(logits)


def _chosen(rows: Tensor, mask: Tensor) -> Tensor:
    """The rows where a mask of the host's says so, without the host waiting for a GPU."""
    if mask.all():
        return rows
    return rows.index_select(0, upload(mask.nonzero().squeeze(1), rows.device)) if mask.any() else rows[:0]


def of_real(
    array: ImageArray, counts: Counts, extractor: Extractor, folder: Path, batch_size: int
) -> tuple[cache.Arrays, Tensor]:
    """FID's statistics (`mu [F]`, `sigma [F, F]`) and features `[n, F]` of real images; empty for count 0.

    The images are the first of one fixed random order. Both results are cached in `folder`, separately:
    asking for one more metric later does not compute the others again.
    """
    key = {
        "format": FORMAT,
        "images": array.fingerprint,  # content and preparation
        "extractor": extractor.identity,
        "torch": torch.__version__.split("+")[0],  # not its build: GPU and CPU share the cache
        "torch_fidelity": version("torch-fidelity"),
    }
    statistics_key, features_key = {**key, "count": counts.fid}, {**key, "count": counts.kid_prc}
    statistics = cache.load(folder, "real-statistics", statistics_key) if counts.fid else {}
    features = cache.load(folder, "real-features", features_key) if counts.kid_prc else {}
    missing = Counts(counts.fid if statistics is None else 0, counts.kid_prc if features is None else 0)
    if any(missing):
        log.info("computing the features of %d real images", max(missing))
        order = torch.randperm(len(array.images), generator=stream(0, "real images of metrics"))
        chosen, place = order[: max(missing)].sort()  # sorted, because a disk reads on faster than it jumps
        gathered = gather(
            extractor,
            lambda start, stop: torch.from_numpy(read_rows(array.images, chosen[start:stop].numpy())),
            for_fid=place < missing.fid,
            for_kid_prc=place < missing.kid_prc,
            keep_logits=False,
            batch_size=batch_size,
        )
        if missing.fid:
            statistics = gathered.moments.statistics()
            _store(folder, "real-statistics", statistics_key, statistics)
        if missing.kid_prc:
            features = {"features": gathered.features.cpu().numpy()}
            _store(folder, "real-features", features_key, features)
    kept = torch.from_numpy(features["features"]) if features else torch.empty(0)
    return statistics or {}, kept


def _store(folder: Path, kind: str, key: dict[str, object], arrays: cache.Arrays) -> None:
    """What cannot be cached is still known now: a full disk must not cost the run."""
    try:
        cache.store(folder, kind, key, arrays)
    except OSError as error:
        log.warning("the features of real images cannot be cached in %s (%s)", folder, error)
