"""Each metric against an independent computation on the same features, and one pass over the images."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import TensorDataset

from gan_lab.data import ImageArray
from gan_lab.errors import UserError
from gan_lab.metrics import METRICS, Evaluator, Protocol, digits_extractor, extractors
from gan_lab.metrics.evaluation import SEPARATE
from gan_lab.metrics.extractors import Extractor
from gan_lab.metrics.moments import Moments

Make = Callable[..., Extractor]
Images = Callable[..., Tensor]
ArrayOf = Callable[..., ImageArray]


def features_of(extractor: Extractor, pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    features, logits = extractor(pixels)
    return features.double().numpy(), logits.double().numpy()


def evaluate(
    extractor: Extractor,
    real: ImageArray,
    generated: Tensor,
    folder: Path,
    batch_size: int = 7,
    **protocol: object,
) -> dict[str, float]:
    evaluator = Evaluator(
        extractor,
        real,
        folder,
        Protocol(num_generated=len(generated), **protocol),  # type: ignore[arg-type]
        batch_size,
    )
    return evaluator.evaluate(lambda start, stop: generated[start:stop])


def test_fid_is_that_of_scipys_matrix_square_root(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    real, generated = images(90, seed=1), images(70, seed=2, level=110)
    values = evaluate(projection(), array_of(real), generated, tmp_path, measure=("fid",))

    a, b = (features_of(projection(), pixels)[0] for pixels in (real, generated))
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s_a @ s_b).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s_a + s_b - 2 * root)
    assert expected > 0.1
    assert values == {"metric/fid_70": pytest.approx(expected, rel=1e-6)}


def test_fid_of_fewer_images_than_features(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    """Singular covariances: tr (S_a S_b)^½ is the nuclear norm of A_c B_c^T, which needs no matrix root."""
    real, generated = images(20, seed=1), images(15, seed=2, level=110)
    extractor = projection(features=64)
    values = evaluate(extractor, array_of(real), generated, tmp_path, measure=("fid",))

    a, b = (features_of(extractor, pixels)[0] for pixels in (real, generated))
    a_c, b_c = (x - x.mean(0) for x in (a, b))
    n_a, n_b = len(a) - 1, len(b) - 1
    trace = np.linalg.norm(a_c @ b_c.T, "nuc") / np.sqrt(n_a * n_b)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + (a_c**2).sum() / n_a + (b_c**2).sum() / n_b - 2 * trace
    assert values["metric/fid_15"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("splits", [1, 4])
def test_inception_score_is_its_formula(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path, splits: int
) -> None:
    real, generated = images(20, seed=1), images(60, seed=2)
    values = evaluate(projection(), array_of(real), generated, tmp_path, measure=("is",), is_splits=splits)

    _, logits = features_of(projection(), generated)
    p = scipy.special.softmax(logits, axis=1)[np.random.RandomState(2020).permutation(len(logits))]
    scores = [
        np.exp(np.mean([np.sum(row * np.log(row / part.mean(0))) for row in part]))
        for part in np.split(p, splits)
    ]
    mean, std = (values[f"metric/is_60_{splits}splits_{name}"] for name in ("mean", "std"))
    assert mean == pytest.approx(np.mean(scores), rel=1e-6)
    assert std == pytest.approx(np.std(scores), rel=1e-4, abs=1e-12)
    assert 1.01 < mean < 5


def test_inception_score_over_the_first_outputs_is_its_formula(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    """exp(E KL(p(y|x) ‖ p(y))), y among the first three of five outputs only."""
    generated, chosen = images(30, seed=2), {"measure": ("is",), "is_splits": 1}
    real = array_of(images(20, seed=1))
    values = evaluate(projection(), real, generated, tmp_path, is_outputs=3, **chosen)

    _, logits = features_of(projection(), generated)
    weights = np.exp(logits[:, :3] - logits[:, :3].max(1, keepdims=True))
    p = weights / weights.sum(1, keepdims=True)
    divergences = [sum(q * math.log(q / m) for q, m in zip(row, p.mean(0), strict=True)) for row in p]
    expected = math.exp(sum(divergences) / len(p))
    assert values["metric/is_30_1splits_3outputs_mean"] == pytest.approx(expected, rel=1e-6)

    over_all = evaluate(projection(), real, generated, tmp_path, **chosen)["metric/is_30_1splits_mean"]
    assert abs(over_all - expected) > 1e-3
    capped = evaluate(projection(), real, generated, tmp_path, is_outputs=1000, **chosen)
    assert capped["metric/is_30_1splits_1000outputs_mean"] == over_all  # of five, all are taken


@pytest.mark.parametrize("measure", [("fid", "is"), ("fid",), ("fid", "kid", "prc"), ("is", "kid")])
def test_fid_of_separate_samples(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path, measure: tuple[str, ...]
) -> None:
    """Each image is made once, and of two sets: what the other metrics see, and FID's own."""
    real, seen, own = array_of(images(40, seed=1)), images(33, seed=2), images(25, seed=3)
    sizes = {"num_kid_prc": 12, "kid_subset_size": 8, "is_splits": 3}
    protocol = Protocol(33, num_fid=25, fid_separate=True, measure=measure, **sizes)  # type: ignore[arg-type]
    made: list[int] = []

    def generate(start: int, stop: int) -> Tensor:
        made.extend(range(start, stop))
        return own[start - SEPARATE : stop - SEPARATE] if start >= SEPARATE else seen[start:stop]

    values = Evaluator(projection(), real, tmp_path, protocol, batch_size=7).evaluate(generate)
    expected = {}
    if "fid" in measure:
        (fid,) = evaluate(projection(), real, own, tmp_path, measure=("fid",)).values()
        expected["metric/fid_25_separate"] = pytest.approx(fid, rel=1e-6)
    others = tuple(name for name in measure if name != "fid")
    if others:
        found = evaluate(projection(), real, seen, tmp_path, measure=others, **sizes)
        expected |= {name: pytest.approx(value, rel=1e-6) for name, value in found.items()}
    assert values == expected
    shared = 33 if "is" in measure else 12 if "kid" in measure else 0
    assert made == [*range(shared), *(range(SEPARATE, SEPARATE + 25) if "fid" in measure else ())]


def test_kid_is_the_unbiased_mmd(projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path) -> None:
    """Subsets of all images are the same set each time: KID is the estimate of all, and does not vary."""
    n = 24
    real, generated = images(n, seed=1), images(n, seed=2, level=110)
    values = evaluate(projection(), array_of(real), generated, tmp_path, measure=("kid",), kid_subset_size=n)

    a, b = (features_of(projection(), pixels)[0] for pixels in (real, generated))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / len(x) + 1) ** 3

    def within(x: np.ndarray) -> float:
        return sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    expected = within(a) + within(b) - 2 * sum(kernel(x, y) for x in a for y in b) / n**2
    assert values["metric/kid_24_10k_subsets24_mean"] == pytest.approx(expected, rel=1e-5)
    assert values["metric/kid_24_10k_subsets24_std"] == pytest.approx(0, abs=1e-9 * abs(expected))


def test_precision_and_recall_are_those_of_the_definition(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    real, generated = images(60, seed=1), images(40, seed=2, level=120)
    values = evaluate(projection(), array_of(real), generated, tmp_path, measure=("prc",))

    a, b = (features_of(projection(), pixels)[0] for pixels in (real, generated))

    def share_inside(points: np.ndarray, manifold: np.ndarray) -> float:
        """The share of points inside a ball about one of the manifold's that reaches its 3rd neighbour."""
        inside = 0
        for point in points:
            inside += any(
                np.linalg.norm(point - centre) <= sorted(np.linalg.norm(manifold - centre, axis=1))[3]
                for centre in manifold
            )
        return inside / len(points)

    precision, recall = share_inside(b, a), share_inside(a, b)
    assert 0 < precision < 1
    assert 0 < recall < 1
    assert precision != recall
    assert values == {
        "metric/precision_40_10k": pytest.approx(precision, abs=1e-6),
        "metric/recall_40_10k": pytest.approx(recall, abs=1e-6),
    }


def test_all_metrics_are_those_of_torch_fidelity_itself(
    digits_weights: Path, array_of: ArrayOf, tmp_path: Path
) -> None:
    """Through its own front door, on real digits and noisy ones."""
    grey, _ = digits_extractor.load_grey()
    real = torch.from_numpy(digits_extractor.to_rgb(grey[:120], 32))
    noise = torch.randint(
        0, 60, (100, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    generated = torch.from_numpy(digits_extractor.to_rgb(grey[300:400], 32)).clamp(max=190) + noise
    (tmp_path / "cache").symlink_to(digits_weights.parent)
    extractor = extractors.digits(str(tmp_path))

    ours = evaluate(
        extractor,
        array_of(real),
        generated,
        tmp_path / "features",
        measure=METRICS,
        is_splits=5,
        kid_subset_size=50,
    )
    torch_fidelity.register_feature_extractor("digits", _TheirDigits)
    theirs = torch_fidelity.calculate_metrics(
        input1=_Images(generated),
        input2=_Images(real),
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        feature_extractor="digits",
        feature_extractor_weights_path=str(digits_weights),
        isc_splits=5,
        kid_subset_size=50,
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    names = {
        "metric/fid_digits_100": "frechet_inception_distance",
        "metric/is_digits_100_5splits_mean": "inception_score_mean",
        "metric/is_digits_100_5splits_std": "inception_score_std",
        "metric/kid_digits_100_10k_subsets50_mean": "kernel_inception_distance_mean",
        "metric/kid_digits_100_10k_subsets50_std": "kernel_inception_distance_std",
        "metric/precision_digits_100_10k": "precision",
        "metric/recall_digits_100_10k": "recall",
    }
    for name, their_name in names.items():
        assert ours[name] == pytest.approx(theirs[their_name], rel=1e-4)
    assert ours.keys() - names.keys() == {"metric/density_digits_100_10k", "metric/coverage_digits_100_10k"}
    assert ours["metric/fid_digits_100"] > 1


class _TheirDigits(torch_fidelity.FeatureExtractorBase):
    """The digits classifier as torch-fidelity takes one."""

    def __init__(self, name: str, features_list: list[str], **named: str) -> None:
        super().__init__(name, features_list)
        self.network = digits_extractor.load(Path(named["feature_extractor_weights_path"]))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return tuple(digits_extractor.LAYERS)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return digits_extractor.LAYERS[metric == "isc"]

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(digits_extractor.LAYERS, self.network(images), strict=True))
        return tuple(named[name] for name in self.features_list)


class _Images(TensorDataset):
    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index)[0]


def test_the_same_images_have_no_distance(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    pixels = images(50, seed=1)
    values = evaluate(projection(), array_of(pixels), pixels, tmp_path, measure=("fid", "prc"))
    assert values["metric/fid_50"] == pytest.approx(0, abs=1e-9)
    assert values["metric/precision_50_10k"] == values["metric/recall_50_10k"] == 1


def test_one_pass_over_the_images_serves_all_metrics(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    extractor = projection()
    protocol = Protocol(num_generated=50, is_splits=2, kid_subset_size=10, measure=METRICS)
    evaluator = Evaluator(extractor, array_of(images(30, seed=1)), tmp_path, protocol, batch_size=16)
    assert extractor.network.seen == 30
    asked: list[tuple[int, int]] = []
    generated = images(50, seed=2)

    def generate(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return generated[start:stop]

    evaluator.evaluate(generate)
    assert asked == [(0, 16), (16, 32), (32, 48), (48, 50)]
    assert extractor.network.seen == 30 + 50


def test_the_gpu_s_memory_is_given_back_when_all_is_judged(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other runs on it need what the real images took, and what the generated ones did."""
    extractor, seen = projection(), []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(extractor.network.seen))
    pixels = images(50, seed=1)
    evaluate(extractor, array_of(pixels), pixels, tmp_path, measure=("fid", "prc"))
    assert seen == [50, 100]


def test_figures_do_not_depend_on_how_many_images_are_judged_at_once(
    data: Path, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    """Beyond rounding: by convolutions, of the sizes for a CPU and for a GPU, and an odd one."""
    real, generated = array_of(images(300, seed=1)), images(290, seed=2, level=110)
    figures = []
    for size in (64, 256, 7):
        protocol = Protocol(num_generated=290, is_splits=2, kid_subset_size=50, measure=METRICS)
        evaluator = Evaluator(extractors.digits(str(data)), real, tmp_path / str(size), protocol, size)
        figures.append(evaluator.evaluate(lambda start, stop: generated[start:stop]))
    for others in figures[1:]:
        assert others == pytest.approx(figures[0], rel=1e-5)


def test_images_beyond_the_memory_of_a_gpu_are_judged_in_parts(
    projection: Make,
    images: Images,
    array_of: ArrayOf,
    tmp_path: Path,
    warnings_of_metrics: pytest.LogCaptureFixture,
) -> None:
    pixels, generated = array_of(images(50, seed=1)), images(50, seed=2)
    expected = evaluate(
        projection(), pixels, generated, tmp_path / "all", batch_size=50, measure=("fid", "is", "prc")
    )

    def refuse(network: torch.nn.Module, arguments: tuple[Tensor]) -> None:
        if len(arguments[0]) > 15:
            raise torch.OutOfMemoryError("CUDA out of memory")

    small = projection()
    small.network.register_forward_pre_hook(refuse)
    found = evaluate(
        small, pixels, generated, tmp_path / "parts", batch_size=50, measure=("fid", "is", "prc")
    )
    assert found == pytest.approx(expected, rel=1e-6)
    assert small.network.seen == 50 + 50
    assert "too small for 50 images at once: judging 25" in warnings_of_metrics.text

    small.network.register_forward_pre_hook(lambda *_: refuse(small.network, (torch.empty(16),)))
    with pytest.raises(torch.OutOfMemoryError):  # not even one
        evaluate(small, pixels, generated, tmp_path / "parts", batch_size=50, measure=("fid", "is", "prc"))


def test_each_metric_takes_the_first_images_of_its_number(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    """IS of all, FID of the first 20, KID and so on of the first 12."""
    real, generated = array_of(images(40, seed=1)), images(60, seed=2)
    sizes = {"num_fid": 20, "num_kid_prc": 12, "kid_subset_size": 8, "is_splits": 3}
    together = evaluate(projection(), real, generated, tmp_path, measure=METRICS, **sizes)
    alone = (
        evaluate(projection(), real, generated[:20], tmp_path, measure=("fid",))
        | evaluate(projection(), real, generated, tmp_path, measure=("is",), is_splits=3)
        | evaluate(projection(), real, generated[:12], tmp_path, measure=("kid", "prc", "dc"), **sizes)
    )
    assert together.keys() == alone.keys()
    assert together == {name: pytest.approx(value, rel=1e-6) for name, value in alone.items()}
    assert together != evaluate(
        projection(), real, generated, tmp_path, measure=METRICS, **(sizes | {"num_fid": 21})
    )


def test_without_is_only_the_images_that_are_needed_are_made(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    extractor = projection()
    evaluate(
        extractor, array_of(images(5, seed=1)), images(60, seed=2), tmp_path, measure=("fid",), num_fid=20
    )
    assert extractor.network.seen == 5 + 20


def test_names_say_who_judged_and_the_numbers_that_are_not_usual(
    projection: Make, images: Images, array_of: ArrayOf, tmp_path: Path
) -> None:
    real, generated = array_of(images(12, seed=1)), images(12, seed=2)
    values = evaluate(
        projection("_mine", usual=12),
        real,
        generated,
        tmp_path,
        measure=METRICS,
        num_fid=8,
        num_real=11,
        kid_subset_size=4,
    )
    assert sorted(values) == [
        "metric/coverage_mine",
        "metric/density_mine",
        "metric/fid_mine_8_11",
        "metric/is_mine_mean",
        "metric/is_mine_std",
        "metric/kid_mine_subsets4_mean",
        "metric/kid_mine_subsets4_std",
        "metric/precision_mine",
        "metric/recall_mine",
    ]


@pytest.mark.parametrize(
    ("metric", "sizes", "message"),
    [
        ("fid", {"num_fid": 1}, "at least 2 images"),
        ("is", {"is_splits": 13}, "is_splits=13 exceeds the 12"),
        ("kid", {"kid_subset_size": 11}, "kid_subset_size=11 exceeds the 10"),
        ("prc", {"num_kid_prc": 3}, "more than 3 images"),
    ],
)
def test_too_few_images_are_refused(
    projection: Make,
    images: Images,
    array_of: ArrayOf,
    tmp_path: Path,
    metric: str,
    sizes: dict[str, int],
    message: str,
) -> None:
    real = array_of(images(10, seed=1))
    extractor = projection()
    with pytest.raises(UserError, match=message):
        evaluate(extractor, real, images(12, seed=2), tmp_path, measure=(metric,), **sizes)
    assert extractor.network.seen == 0


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_moments_are_numpys_however_the_features_come(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a mean far from zero, where the naive sum of squares loses every digit of the variance."""
    monkeypatch.setattr("gan_lab.metrics.moments.BLOCK", 10)
    features = torch.randn(101, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e8
    moments = Moments()
    for batch in itertools.chain(features.split(batch_size), [features[:0]]):
        moments.add(batch)
    statistics = moments.statistics()
    np.testing.assert_allclose(statistics["mu"], features.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics["sigma"], np.cov(features.numpy(), rowvar=False), atol=1e-7)


def test_the_extractor_runs_in_full_precision_and_leaves_the_setting_as_it_was() -> None:
    """Else a GPU's convolutions round to TF32, and the metrics depend on the kind of GPU."""
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    inside: list[str] = []

    class Spy(torch.nn.Linear):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            inside.extend(setting.fp32_precision for setting in settings)
            return images, images

    before = [setting.fp32_precision for setting in settings]
    Extractor(Spy(1, 1), {}, "")(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    assert inside == ["ieee", "ieee"]
    assert [setting.fp32_precision for setting in settings] == before
