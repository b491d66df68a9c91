"""The choices of metrics=...: the numbers of images that they state, at full size with a cheap network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan_lab import build
from gan_lab.config import check_metrics, compose, resolved
from gan_lab.data import ImageArray
from gan_lab.errors import UserError
from gan_lab.metrics.extractors import Extractor

Images = Callable[..., Tensor]
Judge = Callable[..., tuple[dict[str, float], int, int]]


@pytest.fixture
def judged_by(
    projection: Callable[..., Extractor],
    images: Images,
    array_of: Callable[..., ImageArray],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Judge:
    """Judges the images of `generated` against 5,200 others: metrics, real and generated images seen."""
    array = array_of(images(5200, seed=1))

    def judge(generated: Tensor, *overrides: str) -> tuple[dict[str, float], int, int]:
        data = tmp_path_factory.mktemp("data")
        extractor = projection()
        monkeypatch.setattr(build, "create_extractor", lambda *_: extractor)
        config = resolved(compose([f"paths.data={data}", "metrics.batch_size=5000", *overrides]))
        evaluator = build.build_evaluator(config, array, torch.device("cpu"))
        assert evaluator is not None
        real = extractor.network.seen
        values = evaluator.evaluate(lambda start, stop: generated[start:stop])
        return values, real, extractor.network.seen - real

    return judge


def test_the_papers_protocol(judged_by: Judge, images: Images) -> None:
    """IS of 50,000 samples, FID of the first 10,000 of them against 5,000 real images."""
    generated = images(50_000, seed=2)
    values, real, made = judged_by(generated, "metrics=paper")
    assert values.keys() == {"metric/fid", "metric/is_mean", "metric/is_std"}
    assert (real, made) == (5_000, 50_000)

    generated[10_000:] = 0
    after, *_ = judged_by(generated, "metrics=paper")
    assert after["metric/fid"] == values["metric/fid"]
    assert after["metric/is_mean"] != values["metric/is_mean"]
    generated[9_999] = 0
    assert judged_by(generated, "metrics=paper")[0]["metric/fid"] != values["metric/fid"]


def test_the_usual_protocol(judged_by: Judge, images: Images) -> None:
    """IS and FID of 50,000 samples, against all real images."""
    generated = images(50_000, seed=2)
    values, real, made = judged_by(generated, "metrics=inception")
    assert values.keys() == {"metric/fid", "metric/is_mean", "metric/is_std"}
    assert (real, made) == (5_200, 50_000)
    generated[-1] = 0
    assert judged_by(generated, "metrics=inception")[0]["metric/fid"] != values["metric/fid"]


def test_the_fast_protocol_is_named_as_such(judged_by: Judge, images: Images) -> None:
    options = (
        "metrics.kid=true",
        "metrics.prc=true",
        "metrics.num_kid_prc=300",
        "metrics.kid_subset_size=100",
    )
    values, real, made = judged_by(images(5_000, seed=2), "metrics=fast", *options)
    assert (real, made) == (5_000, 5_000)
    assert len(values) == 7
    assert all("_fast" in name for name in values)


def test_no_metrics() -> None:
    config = resolved(compose(["metrics=none"]))
    check_metrics(config)
    assert build.build_evaluator(config, None, torch.device("cpu")) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metrics.fid=false", "metrics.is=false"], "all false"),
        (["metrics.kid=1"], "metrics.kid=1 is neither true nor false"),
        (["metrics.num_generated=5"], "is_splits=10 exceeds metrics.num_generated=5"),
        (["metrics.num_generated=null"], "metrics.num_generated=None is not a whole number"),
        (["metrics.num_fid=1"], "metrics.num_fid=1"),
        (["metrics.num_real=2.5"], "metrics.num_real=2.5 is not a whole number"),
        (["metrics.kid_subset_size=0"], "metrics.kid_subset_size=0"),
        (["metrics=inception", "metrics.precision=fp16"], "metrics.precision=fp16 is none of exact, bf16"),
        (["metrics.precision=bf16"], "metrics.precision=bf16 is for Inception alone"),
        (["metrics.num_kid_prc=true"], "metrics.num_kid_prc=True"),
        (["dataset=cifar10", "metrics=digits"], "judges handwritten digits, not dataset=cifar10"),
    ],
)
def test_metrics_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_metrics(resolved(compose(overrides)))
