"""EfficientNet-Lite0 with its published weights: timm's features, what it sees, distances in their order."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms.functional import center_crop, gaussian_blur

from gan_lab.data import ImageArray
from gan_lab.errors import UserError
from gan_lab.metrics import Evaluator, Protocol, extractors, lite
from gan_lab.metrics.extractors import Extractor

timm = pytest.importorskip("timm")
if importlib.util.find_spec(lite.CARRIER) is None:
    pytest.skip("the package with the weights is not installed", allow_module_level=True)

PALACE, DAISY = 698, 985  # of ImageNet's classes


@pytest.fixture(scope="module")
def judge() -> Extractor:
    return extractors.lite()


def photo(name: str) -> Tensor:
    return torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)


@pytest.mark.parametrize(("name", "seen"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_it_sees_what_photographs_show(judge: Extractor, name: str, seen: int) -> None:
    _, logits = judge(center_crop(photo(name), [427, 427])[None])
    assert logits.argmax().item() == seen


def test_features_are_those_of_timms_own_network(judge: Extractor) -> None:
    """Its batch norms where they were, fed as its own configuration says."""
    original = timm.create_model(lite.NAME, pretrained=False)
    path = Path(importlib.util.find_spec(lite.CARRIER).submodule_search_locations[0], lite.FILE)  # type: ignore[union-attr, index]
    published = torch.load(path, weights_only=True)
    state = original.state_dict()
    state |= dict(zip(state, published.values(), strict=True))
    original.load_state_dict(state)
    images = torch.stack([center_crop(photo(name), [224, 224]) for name in ("china.jpg", "flower.jpg")])
    config = original.pretrained_cfg
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        scaled = (images / 255 - mean) / std
        expected = original.eval().forward_head(original.forward_features(scaled), pre_logits=True)
        expected_logits = original(scaled)
    features, logits = judge(images)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [32, 300])
def test_images_are_resized_as_pillow_does(judge: Extractor, size: int) -> None:
    image = center_crop(photo("flower.jpg"), [size, size])
    channels = [Image.fromarray(channel.float().numpy()) for channel in image]
    resized = np.stack([channel.resize((224, 224), Image.Resampling.BICUBIC) for channel in channels])
    features, _ = judge(image[None])
    expected = judge.network._features(torch.from_numpy(resized).clamp(0, 255)[None])
    torch.testing.assert_close(features, expected, rtol=1e-2, atol=1e-2)


def test_features_do_not_depend_on_how_many_there_are(judge: Extractor) -> None:
    images = patches(lite.AT_ONCE_ON_CPU + 2, seed=0)
    torch.testing.assert_close(judge(images)[0][-1:], judge(images[-1:])[0], rtol=1e-4, atol=1e-4)


def patches(count: int, seed: int, names: tuple[str, ...] = ("china.jpg", "flower.jpg")) -> Tensor:
    """Random cuts of 64 pixels out of the photographs in turn."""
    rng = torch.Generator().manual_seed(seed)
    photos = [photo(name) for name in names]
    cuts = []
    for number in range(count):
        image = photos[number % len(photos)]
        top, left = (int(torch.randint(0, side - 64, (), generator=rng)) for side in image.shape[1:])
        cuts.append(image[:, top : top + 64, left : left + 64])
    return torch.stack(cuts)


def noisy(images: Tensor, strength: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    return (images + strength * noise).clamp(0, 255).round().to(torch.uint8)


def blurred(images: Tensor, strength: float) -> Tensor:
    return gaussian_blur(images.float(), 2 * int(3 * strength) + 1, strength).round().to(torch.uint8)  # type: ignore[arg-type]


def test_distances_grow_with_blur_noise_and_dropped_modes(
    judge: Extractor, array_of: Callable[..., ImageArray], tmp_path: Path
) -> None:
    """From next to nothing between two halves of one set."""
    count = 48
    real, half = patches(count, seed=1), patches(count, seed=2)
    china = patches(count, 3, ("china.jpg",))
    sets = {
        "half": half,
        "little blur": blurred(half, 0.7),
        "much blur": blurred(half, 2.0),
        "little noise": noisy(half, 8),
        "much noise": noisy(half, 40),
        "one photograph": china,
    }
    protocol = Protocol(num_generated=count, kid_subset_size=count, measure=("fid", "kid", "prc", "dc"))
    evaluator = Evaluator(judge, array_of(real), tmp_path, protocol)
    found = {name: evaluator.evaluate(lambda a, b, x=x: x[a:b]) for name, x in sets.items()}  # type: ignore[misc]
    of = {
        kind: {name: values[f"metric/{kind}"] for name, values in found.items()}
        for kind in ("fd_lite_48", "kid_lite_48_10k_subsets48_mean", "coverage_lite_48_10k")
    }
    distance, kid, covered = of.values()
    for figures in (distance, kid):
        assert figures["half"] < figures["little blur"] < figures["much blur"]
        assert figures["half"] < figures["little noise"] < figures["much noise"]
        assert figures["half"] < figures["one photograph"]
    assert abs(kid["half"]) < 0.01 < 0.03 < kid["one photograph"]
    assert covered["half"] > 0.9 > covered["little noise"] > covered["much noise"]
    assert covered["half"] > covered["one photograph"] + 0.2
    assert {"metric/precision_lite_48_10k", "metric/density_lite_48_10k"} < found["half"].keys()


def test_bf16_has_names_and_features_of_its_own(judge: Extractor) -> None:
    reduced = extractors.lite("bf16")
    assert (judge.suffix, reduced.suffix) == ("_lite", "_lite_bf16")
    assert judge.identity != reduced.identity
    images = patches(4, seed=0)
    exact = judge(images)[0]
    difference = ((reduced(images)[0] - exact).norm(dim=1) / exact.norm(dim=1)).max()
    assert 1e-4 < difference < 0.3


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"", "is damaged"), (b"other", "is damaged")]
)
def test_missing_and_damaged_weights_are_refused_before_they_are_loaded(
    content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "other_lite"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it ran')")
    if content is not None:
        (package / lite.FILE).write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lite, "CARRIER", "other_lite")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match=message):
        extractors.lite()


def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "CARRIER", "no_such_package")
    with pytest.raises(UserError, match=r"pip install -e '\.\[judges\]'"):
        extractors.lite()
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm .*pip install -e '\.\[judges\]'"):
        extractors.lite()
