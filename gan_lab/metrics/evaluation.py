"""FID, IS, KID, precision and recall by torch-fidelity's arithmetic; density and coverage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gan_lab.data import ImageArray
from gan_lab.device import give_back_gpu_memory
from gan_lab.distributed.collectives import on_rank_zero
from gan_lab.errors import UserError
from gan_lab.metrics import coverage
from gan_lab.metrics.extractors import Extractor
from gan_lab.metrics.features import Counts, Gathered, gather, of_real

METRICS = ("fid", "is", "kid", "prc", "dc")
SEPARATE = 10_000_000  # the number of FID's first sample where it has samples of its own
NEIGHBORS = 3  # k of precision and recall (Kynkäänniemi et al. 2019, section 3)


@dataclass(frozen=True)
class Protocol:
    """What is measured, on how many images; figures of different protocols have different names.

    - `is`: IS (Salimans et al. 2016) of `num_generated` images in `is_splits` splits, over the first
      `is_outputs` of the network's outputs.
    - `fid`: FID (Heusel et al. 2017) of the first `num_fid` of them against `num_real` real ones; or, with
      `fid_separate`, of as many that no other metric sees.
    - `kid`: KID (Bińkowski et al. 2018), 100 subsets of `kid_subset_size` out of the first `num_kid_prc`
      generated and as many real images.
    - `prc`: precision and recall (Kynkäänniemi et al. 2019), k = 3, of the same images as KID.
    - `dc`: density and coverage (Naeem et al. 2020), k = 5, of the same images as KID.

    A number of images or outputs is an upper bound: of fewer, all are taken, as they are for None.

    All take the same features as FID, where the papers of the last two take VGG-16's.
    """

    num_generated: int = 50_000
    num_fid: int | None = None
    num_real: int | None = None
    num_kid_prc: int | None = 10_000
    is_splits: int = 10
    kid_subset_size: int = 1000
    measure: tuple[str, ...] = ("fid", "is")
    is_outputs: int | None = None
    fid_separate: bool = False

    @property
    def fid_samples(self) -> int:
        """How many samples FID is of."""
        wanted = self.num_fid or self.num_generated
        return wanted if self.fid_separate else min(wanted, self.num_generated)

    def counts(self, available: int, for_fid: int | None) -> Counts:
        """How many of the available images each metric takes, 0 for those not asked for."""
        wants_features = not {"kid", "prc", "dc"}.isdisjoint(self.measure)
        return Counts(
            fid=min(for_fid or available, available) if "fid" in self.measure else 0,
            kid_prc=min(self.num_kid_prc or available, available) if wants_features else 0,
        )

    def suffix(self, metric: str, usual: int) -> str:
        """What ends the names of a metric's figures: its numbers, where they are not the usual ones.

        The usual ones, `""`: `usual` samples against all real images, 10 splits, all outputs, 10,000 images
        for KID, precision and recall, subsets of 1,000. `fid` of 10,000 samples against 5,000 real images has
        `_10k_5k`, of 300 against all `_300`.
        """
        if metric == "is":
            splits = "" if self.is_splits == 10 else f"_{self.is_splits}splits"
            outputs = f"_{self.is_outputs}outputs" if self.is_outputs else ""
            return _numbers(self.num_generated, None, usual, None) + splits + outputs
        if metric == "fid":
            separate = "_separate" if self.fid_separate else ""
            return _numbers(self.fid_samples, self.num_real, usual, None) + separate
        most, usually = self.num_kid_prc, 10_000
        numbers = _numbers(
            min(most or self.num_generated, self.num_generated), most, min(usually, usual), usually
        )
        is_usual = metric != "kid" or self.kid_subset_size == 1000
        return numbers + ("" if is_usual else f"_subsets{_short(self.kid_subset_size)}")


def _numbers(samples: int, real: int | None, usual_samples: int, usual_real: int | None) -> str:
    if (samples, real) == (usual_samples, usual_real):
        return ""
    return f"_{_short(samples)}" + (f"_{_short(real)}" if real else "" if usual_real is None else "_all")


def _short(number: int) -> str:
    return f"{number // 1000}k" if number % 1000 == 0 else str(number)


class Evaluator:
    """Judges generated images against those of `real` by an extractor's features, under a protocol.

    What is known of the real images is cached in `cache` under a key of everything that it depends on.
    `every` is how many iterations of a training lie between evaluations, 0: only the end is judged. Raises
    UserError where there are too few images for the protocol.
    """

    def __init__(
        self,
        extractor: Extractor,
        real: ImageArray,
        cache: Path,
        protocol: Protocol,
        batch_size: int = 64,
        every: int = 0,
    ) -> None:
        self.every = every
        self.extractor = extractor
        self._protocol = protocol
        self._batch_size = batch_size
        self._generated = protocol.counts(protocol.num_generated, protocol.num_fid)
        if protocol.fid_separate and "fid" in protocol.measure:
            self._generated = self._generated._replace(fid=protocol.fid_samples)
        self._real = protocol.counts(len(real.images), protocol.num_real)
        _refuse_too_few(protocol, self._generated, self._real)
        self._statistics, self._features = of_real(real, self._real, extractor, cache, batch_size)
        give_back_gpu_memory()

    def __str__(self) -> str:
        """Who judges what, in a line: `fid, is of 2,000 samples against 1,797 images by digits`."""
        protocol, judge = self._protocol, self.extractor.identity["name"]
        real = f" against {max(self._real):,} images" if max(self._real) else ""
        is_separate = protocol.fid_separate and "fid" in protocol.measure
        own = f", fid of {protocol.fid_samples:,} others" if is_separate else ""
        return f"{', '.join(protocol.measure)} of {protocol.num_generated:,} samples{own}{real} by {judge}"

    def evaluate(self, generate: Callable[[int, int], Tensor]) -> dict[str, float]:
        """`metric/fid`, `is_mean`, `kid_mean`, `precision`, `recall`, `density` and so on: those asked for.

        `generate(start, stop)` makes the images with these numbers, uint8 `[stop - start, 3, H, W]`; those
        that are FID's own have numbers from SEPARATE. The suffixes of the extractor and of the protocol are
        in the names, as in `metric/is_digits_mean`.
        """
        protocol, (fid, kid_prc) = self._protocol, self._generated
        wants_is = "is" in protocol.measure
        separate = fid if protocol.fid_separate else 0
        shared = protocol.num_generated if wants_is else max(fid - separate, kid_prc)
        place = torch.arange(shared + separate)
        gathered = gather(
            self.extractor,
            lambda start, stop: _of_two(generate, shared, start, stop),
            for_fid=place >= shared if separate else place < fid,
            for_kid_prc=place < kid_prc,
            keep_logits=wants_is,
            batch_size=self._batch_size,
            is_shared=True,
        )
        values = self._values(gathered._replace(logits=gathered.logits[:shared, : protocol.is_outputs]))
        del gathered
        give_back_gpu_memory()  # several GB at times, for minutes until the next evaluation
        return values

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The names of the figures of each metric that is asked for."""
        figures = {
            "fid": (self.extractor.distance + "{}",),
            "is": ("is{}_mean", "is{}_std"),
            "kid": ("kid{}_mean", "kid{}_std"),
            "prc": ("precision{}", "recall{}"),
            "dc": ("density{}", "coverage{}"),
        }
        judge, suffix = self.extractor, self._protocol.suffix
        return {
            metric: tuple(
                f"metric/{name.format(judge.suffix + suffix(metric, judge.usual))}" for name in names
            )
            for metric, names in figures.items()
            if metric in self._protocol.measure
        }

    @on_rank_zero
    def _values(self, gathered: Gathered) -> dict[str, float]:
        from gan_lab.metrics import figures  # heavy, and not needed to train

        moments, features, logits = gathered
        device = features.device if features.device.type == "cuda" else "cpu"  # Apple's has no float64
        generated, real = features.to(device).double(), self._features.to(device).double()
        logits = logits.to(device)
        values: dict[str, float] = {}
        for metric, names in self.names.items():
            if metric == "fid":
                found = figures.fid(moments.statistics(), self._statistics)
            elif metric == "is":
                found = figures.inception_score(logits, self._protocol.is_splits)
            elif metric == "kid":
                found = figures.kid(generated, real, self._protocol.kid_subset_size)
            elif metric == "dc":
                found = list(coverage.density_and_coverage(real, generated))
            else:
                found = figures.precision_and_recall(generated, real, NEIGHBORS)
            values |= zip(names, found, strict=True)
        return values


def _of_two(generate: Callable[[int, int], Tensor], shared: int, start: int, stop: int) -> Tensor:
    """The samples at these places, of which those from `shared` on are FID's own."""
    ends = min(stop, shared), max(start, shared)
    parts = [generate(start, ends[0])] if start < ends[0] else []
    if ends[1] < stop:
        parts.append(generate(SEPARATE + ends[1] - shared, SEPARATE + stop - shared))
    return torch.cat(parts)


def _refuse_too_few(protocol: Protocol, generated: Counts, real: Counts) -> None:
    if "fid" in protocol.measure and (fewest := min(generated.fid, real.fid)) < 2:
        raise UserError(f"FID needs at least 2 images on either side, not {fewest}: give it more")
    if "is" in protocol.measure and protocol.is_splits > protocol.num_generated:
        raise UserError(
            f"is_splits={protocol.is_splits} exceeds the {protocol.num_generated} images: lower it"
        )
    fewest = min(generated.kid_prc, real.kid_prc)
    if "kid" in protocol.measure and protocol.kid_subset_size > fewest:
        raise UserError(
            f"kid_subset_size={protocol.kid_subset_size} exceeds the {fewest} images of KID: lower it"
        )
    if "prc" in protocol.measure and fewest <= NEIGHBORS:
        raise UserError(f"precision and recall need more than {NEIGHBORS} images, not {fewest}: give more")
    if "dc" in protocol.measure and fewest <= coverage.NEIGHBORS:
        raise UserError(
            f"density and coverage need more than {coverage.NEIGHBORS} images, not {fewest}: give more"
        )


def evaluator(
    real: ImageArray,
    cache: Path,
    device: torch.device,
    extractor: Extractor,
    measure: Sequence[str] = ("fid", "is"),
    every: int = 0,
    batch_size: int = 64,
    gpu_batch_size: int = 256,
    datasets: Sequence[str] | None = None,
    **numbers: int | None,
) -> Evaluator:
    """The evaluator that a choice of `configs/metrics` describes; `numbers` are those of its `Protocol`.

    It judges `batch_size` images at once on a CPU, `gpu_batch_size` on a GPU. `datasets` are the only ones
    that it can judge, which the config has checked.
    """
    protocol = Protocol(measure=tuple(measure), **numbers)  # type: ignore[arg-type]
    extractor.network.to(device)
    at_once = gpu_batch_size if device.type == "cuda" else batch_size
    return Evaluator(extractor, real, cache, protocol, at_once, every)
