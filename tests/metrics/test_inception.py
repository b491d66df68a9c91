"""The folded Inception against torch-fidelity's own, exactly and in bfloat16."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from gan_lab.data import ImageArray
from gan_lab.metrics import Evaluator, Protocol
from gan_lab.metrics.extractors import Extractor, inception
from gan_lab.metrics.features import Counts, of_real
from gan_lab.metrics.inception import AT_ONCE_ON_CPU, SIZE, resizing

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Images that differ in more than their noise, uint8 `[6, 3, 32, 24]`."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(6, 3, 4, 3, generator=rng), (32, 24), mode="bilinear")
    return (255 * (0.8 * coarse + 0.2 * torch.rand(coarse.shape, generator=rng))).to(torch.uint8)


@pytest.fixture(scope="module")
def theirs(random_weights: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """torch-fidelity's features and logits of them."""
    layers = ["2048", "logits_unbiased"]
    return FeatureExtractorInceptionV3("inception-v3-compat", layers, str(random_weights))(pixels)


@pytest.fixture(scope="module")
def make(random_weights: Path) -> Callable[..., Extractor]:
    return lambda precision: inception("unused", str(random_weights), precision)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return ((ours - theirs).norm() / theirs.norm()).item()


def centred(features: Tensor) -> Tensor:
    """What tells images apart, where all have much in common."""
    return features - features.mean(dim=0)


def test_features_are_torch_fidelitys(
    make: Callable[..., Extractor], pixels: Tensor, theirs: tuple[Tensor, Tensor]
) -> None:
    """Of FID's layer and of IS's, which is without the bias, as its first implementation was."""
    for ours, expected in zip(make("exact")(pixels), theirs, strict=True):
        assert ours.shape == expected.shape
        assert centred(expected).norm() > 0.02 * expected.norm()
        assert difference(ours, expected) < 1e-5
        assert difference(centred(ours), centred(expected)) < 1e-4
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().mean().item())


def test_bfloat16_gives_nearly_these_features(
    make: Callable[..., Extractor], pixels: Tensor, theirs: tuple[Tensor, Tensor]
) -> None:
    for ours, expected in zip(make("bf16")(pixels), theirs, strict=True):
        assert ours.dtype == torch.float32
        assert 1e-4 < difference(ours, expected) < 0.02
        assert difference(centred(ours), centred(expected)) < 0.1


def test_an_images_features_do_not_depend_on_how_many_there_are(
    make: Callable[..., Extractor], pixels: Tensor
) -> None:
    extractor = make("exact")
    alone, _ = extractor(pixels)
    many, _ = extractor(pixels.repeat(4, 1, 1, 1)[: AT_ONCE_ON_CPU + 2])
    torch.testing.assert_close(many[:6], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(many[AT_ONCE_ON_CPU:], alone[[4, 5]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (48, 24), (299, 299), (301, 1), (640, 477)])
def test_resizing_is_torch_fidelitys(shape: tuple[int, int]) -> None:
    images = 255 * torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    height, width = (resizing(size, SIZE, CPU) for size in shape)
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, (SIZE, SIZE), align_corners=False)
    torch.testing.assert_close(height @ images @ width.T, expected, rtol=1e-5, atol=1e-3)


def test_precisions_share_neither_names_nor_cache(
    make: Callable[..., Extractor],
    random_weights: Path,
    pixels: Tensor,
    array_of: Callable[..., ImageArray],
    tmp_path: Path,
) -> None:
    real, mus = array_of(pixels), []
    protocol = Protocol(num_generated=4, is_splits=1, measure=("is",))
    unverified = f"_unverified_{hashlib.sha256(random_weights.read_bytes()).hexdigest()[:8]}"
    for precision, suffix in (("exact", ""), ("bf16", "_bf16")):
        extractor = make(precision)
        values = Evaluator(extractor, real, tmp_path, protocol).evaluate(lambda a, b: pixels[a:b].flip(3))
        assert values.keys() == {
            f"metric/is{unverified}{suffix}_4_1splits_{name}" for name in ("mean", "std")
        }
        mus.append(of_real(real, Counts(6, 0), extractor, tmp_path, batch_size=64)[0]["mu"])
    assert len(list(tmp_path.glob("real-statistics-*.npz"))) == 2
    assert 1e-5 < abs(mus[0] - mus[1]).max() / abs(mus[0]).max() < 0.05
