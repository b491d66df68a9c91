"""Judging images: features a second over torch-fidelity's own, and what reduced precision changes.

Inception's published weights are not needed for that: random ones of the same shapes take the same time.
"""

import contextlib
import functools
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gans import the_device
from benchmarks.rows import Row, median_ratio
from benchmarks.timing import in_turn, seconds, seconds_each
from gan_lab.device import prepare_process
from gan_lab.metrics.extractors import DTYPES, INCEPTION, Extractor, inception

BATCH = 64  # torch-fidelity's and ours, by default
GPU_BATCH = 256  # ours on a GPU
LAYERS = ["2048", "logits_unbiased"]
NAMES = {"exact": "identical", "bf16": "reduced"}


def evaluation(rounds: int = 5) -> Iterator[Row]:
    """`ratio/evaluation/<identical|reduced>`: our images a second over torch-fidelity as it comes.

    Features for FID and logits for IS of the same 64 images, in one batch; torch-fidelity is in a process of
    its own, which nothing of this project has set up. `difference/evaluation/...` is the largest relative
    difference of an image's features (Euclidean norms).
    """
    device, images = the_device(), pictures(BATCH, seed=0)
    prepare_process(device)
    with (
        tempfile.TemporaryDirectory() as folder,
        torch_fidelity(Path(folder)) as (weights, features, original),
    ):
        extractors = _extractors(weights, device)
        expected, difference = features(), {}
        for precision, extractor in extractors.items():
            ours = extractor(images)[0].cpu()
            difference[precision] = ((ours - expected).norm(dim=1) / expected.norm(dim=1)).max().item()
        measures = {
            precision: functools.partial(seconds, functools.partial(extractor, images), device)
            for precision, extractor in extractors.items()
        }
        times = in_turn({"torch-fidelity": original, **measures}, rounds)
    yield Row(
        "speed/evaluation/torch_fidelity", BATCH / statistics.median(times["torch-fidelity"]), "images/s"
    )
    for precision, name in NAMES.items():
        yield Row(f"speed/evaluation/{name}", BATCH / statistics.median(times[precision]), "images/s")
        ratio = median_ratio(times["torch-fidelity"], times[precision])
        yield Row(f"ratio/evaluation/{name}", ratio, "×")
        yield Row(f"difference/evaluation/{name}", difference[precision], "relative")


def on_a_gpu(rounds: int = 5) -> Iterator[Row]:
    """`speed/evaluation/gpu/<exact|tf32|bf16>`: Inception's images a second in batches of a GPU's size."""
    device = the_device()
    prepare_process(device)
    images = pictures(GPU_BATCH, seed=0).to(device)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_random_weights(Path(folder) / "random.pth")
        extractors = _extractors(weights, device, DTYPES)
    measures = {
        precision: functools.partial(seconds_each, functools.partial(extractor, images), device, count=5)
        for precision, extractor in extractors.items()
    }
    for precision, times in in_turn(measures, rounds).items():
        yield Row(f"speed/evaluation/gpu/{precision}", GPU_BATCH / statistics.median(times), "images/s")


def effect(count: int = 1024) -> Iterator[Row]:
    """`effect/evaluation/reduced`: what bfloat16 does to a Fréchet distance, relative.

    Of random-weight features, so it is no FID: that of two sets of pictures, one of them with less contrast.
    """
    sets = pictures(count, seed=1), pictures(count, seed=2, contrast=0.8)
    distances: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = write_random_weights(Path(folder) / "random.pth")
        for extractor in _extractors(weights, the_device()).values():
            distances.append(_distance(*(_all_features(extractor, images) for images in sets)))
    exact, reduced = distances
    yield Row("effect/evaluation/reduced", reduced / exact - 1, "relative")


SETS = ("half", "blur", "noise", "modes")  # of real pictures, each against others


def effect_on_real_features(count: int = 256) -> Iterator[Row]:
    """What bfloat16 does to the features of a trained network, EfficientNet-Lite0, and to their distances.

    `difference/lite/<largest|median>` is the relative difference of a picture's features (Euclidean norms);
    `distance/lite/<set>` the Fréchet distance in float32 of `count` cuts out of scikit-learn's photographs to
    as many others: as they are, blurred, noisy, and of one of the two photographs only; `effect/lite/<set>`
    its relative change where both sets are judged in bfloat16.
    """
    from gan_lab.metrics.extractors import lite

    real, half = cuts(count, seed=1), cuts(count, seed=2)
    sets = dict(zip(SETS, (half, _blurred(half), _noisy(half), cuts(count, seed=3, photos=1)), strict=True))
    device, distances, features = the_device(), [], []
    for precision in NAMES:
        extractor = lite(precision)
        extractor.network.to(device)
        known = _all_features(extractor, real)
        distances.append({name: _distance(known, _all_features(extractor, x)) for name, x in sets.items()})
        features.append(known)
    exact, reduced = features
    difference = (reduced - exact).norm(dim=1) / exact.norm(dim=1)
    yield Row("difference/lite/largest", difference.max().item(), "relative")
    yield Row("difference/lite/median", difference.median().item(), "relative")
    for name in SETS:
        yield Row(f"distance/lite/{name}", distances[0][name], "")
        yield Row(f"effect/lite/{name}", distances[1][name] / distances[0][name] - 1, "relative")


def cuts(count: int, seed: int, photos: int = 2, size: int = 64) -> Tensor:
    """Squares out of the first of scikit-learn's photographs in turn, uint8 `[count, 3, size, size]`."""
    from sklearn.datasets import load_sample_images

    rng = torch.Generator().manual_seed(seed)
    images = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    some = []
    for number in range(count):
        image = images[number % photos]
        top, left = (int(torch.randint(0, side - size, (), generator=rng)) for side in image.shape[1:])
        some.append(image[:, top : top + size, left : left + size])
    return torch.stack(some)


def _blurred(images: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(images.float(), 2), scale_factor=2).round().to(torch.uint8)


def _noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 20 * noise).clamp(0, 255).round().to(torch.uint8)


def _distance(first: Tensor, second: Tensor) -> float:
    """The Fréchet distance of two sets of features."""
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    both = (fid_features_to_statistics(features.double()) for features in (first, second))
    return fid_statistics_to_metric(*both, verbose=False)[KEY_METRIC_FID]


def pictures(count: int, seed: int, contrast: float = 1.0) -> Tensor:
    """Smooth coloured noise, uint8 `[count, 3, 32, 32]`."""
    coarse = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=(32, 32), mode="bicubic")
    return (128 + 60 * contrast * smooth).clamp_(0, 255).to(torch.uint8)


def write_random_weights(path: Path) -> Path:
    """Write a file with the shapes of Inception's weights and random values, its batch norms' too."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Shapes(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object, **__: object) -> None:
            """There is nothing to load yet."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.device("meta"):
        shapes = Shapes(INCEPTION, LAYERS, nothing).state_dict()
    rng = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        state[name] = torch.ones(shape.shape, dtype=shape.dtype)
        if name.endswith(("bn.weight", "running_var")):
            state[name].uniform_(0.5, 1.5, generator=rng)
        elif name.endswith(("bias", "running_mean")):
            state[name].normal_(0, 0.1, generator=rng)
        elif shape.dim() > 1:
            torch.nn.init.kaiming_normal_(state[name], generator=rng)
    torch.save(state, path)
    return path


def _all_features(extractor: Extractor, images: Tensor) -> Tensor:
    return torch.cat([extractor(some)[0] for some in images.split(BATCH)]).cpu()


def _extractors(
    weights: Path, device: torch.device, precisions: Iterable[str] = NAMES
) -> dict[str, Extractor]:
    extractors = {name: inception(str(weights.parent), str(weights), name) for name in precisions}
    for extractor in extractors.values():
        extractor.network.to(device)
    return extractors


@contextlib.contextmanager
def torch_fidelity(folder: Path) -> Iterator[tuple[Path, Callable[[], Tensor], Callable[[], float]]]:
    """A file of random weights; torch-fidelity's features and times with them, in a process of its own."""
    weights = write_random_weights(folder / "random.pth")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _start, (str(weights), str(the_device()))) as worker:
        yield (
            weights,
            lambda: torch.from_numpy(worker.submit(_features).result()),
            lambda: worker.submit(_seconds).result(),
        )


_original: Callable[[], Tensor]


def _start(weights: str, device: str) -> None:
    """Called once, in torch-fidelity's process."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(INCEPTION, LAYERS, weights).to(device)
    images = pictures(BATCH, seed=0).to(device)

    def original() -> Tensor:
        with torch.no_grad():
            return network(images)[0]

    global _original
    _original = original


def _features() -> np.ndarray:
    return _original().cpu().numpy()


def _seconds() -> float:
    begin = time.perf_counter()
    _original().cpu()
    return time.perf_counter() - begin
