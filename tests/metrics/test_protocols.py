"""The choices of metrics=...: the numbers of images that they state, at full size with a cheap network."""

import re
import shutil
from collections.abc import Callable, Mapping
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gan_lab import build
from gan_lab.config import compose, load
from gan_lab.data import ImageArray
from gan_lab.errors import UserError
from gan_lab.metrics import METRICS, Evaluator, Protocol, extractors
from gan_lab.metrics.evaluation import SEPARATE
from gan_lab.metrics.extractors import Extractor

CPU = torch.device("cpu")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/metrics.md"

PAPERS = ("metric/fid_10k_5k_separate", "metric/is_1000outputs_mean", "metric/is_1000outputs_std")

Images = Callable[..., Tensor]
OWN = SEPARATE - 50_000

Judge = Callable[..., tuple[dict[str, float], int, int]]


@pytest.fixture
def evaluators(
    projection: Callable[..., Extractor],
    images: Images,
    array_of: Callable[..., ImageArray],
    digits_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Evaluator]]:
    """Builds what a command line chooses, against 5,200 images, a cheap network in Inception's place."""
    array = array_of(images(5200, seed=1))

    def make(
        *overrides: str, dataset: str = "cifar10", network: Extractor | None = None
    ) -> dict[str, Evaluator]:
        monkeypatch.setattr(extractors, "inception", lambda **_: network or projection())
        lite = projection("_lite", usual=10_000, distance="fd")
        monkeypatch.setattr(extractors, "lite", lambda **_: lite)
        data = tmp_path_factory.mktemp("data")  # nothing is known of the images yet
        (data / "cache").mkdir()
        shutil.copy(digits_weights, data / "cache")
        config = load(compose([f"dataset={dataset}", f"paths.data={data}", *overrides]))
        return build.build_evaluators(config, array, CPU)

    return make


@pytest.fixture
def judged_by(evaluators: Callable[..., dict[str, Evaluator]], projection: Callable[..., Extractor]) -> Judge:
    """Judges the images of `generated` by a choice: metrics, real and generated images seen."""

    def judge(generated: Tensor, name: str, *settings: str) -> tuple[dict[str, float], int, int]:
        extractor = projection()
        overrides = [f"metrics.{name}.{setting}" for setting in ("batch_size=5000", *settings)]
        (evaluator,) = evaluators(f"metrics={name}", *overrides, network=extractor).values()
        real = extractor.network.seen

        def generate(start: int, stop: int) -> Tensor:  # FID's own come last
            own = start >= SEPARATE
            return generated[start - own * OWN : stop - own * OWN]

        return evaluator.evaluate(generate), real, extractor.network.seen - real

    return judge


def test_the_papers_protocol(judged_by: Judge, images: Images) -> None:
    """IS of 50,000 samples, FID of 10,000 others against 5,000 real images."""
    fid, mean, std = PAPERS
    generated = images(60_000, seed=2)
    values, real, made = judged_by(generated, "paper")
    assert values.keys() == set(PAPERS)
    assert (real, made) == (5_000, 60_000)

    only_is, only_fid = generated.clone(), generated.clone()
    only_is[50_000:] = 0
    only_fid[:50_000] = 0
    after, *_ = judged_by(only_is, "paper")
    assert (after[mean], after[std]) == (values[mean], values[std])
    assert after[fid] != values[fid]
    after, *_ = judged_by(only_fid, "paper")
    assert after[fid] == values[fid]
    assert after[mean] != values[mean]
    generated[59_999] = 0
    assert judged_by(generated, "paper")[0][fid] != values[fid]


def test_the_usual_protocol(judged_by: Judge, images: Images) -> None:
    """IS and FID of 50,000 samples, against all real images."""
    generated = images(50_000, seed=2)
    values, real, made = judged_by(generated, "inception")
    assert values.keys() == {"metric/fid", "metric/is_mean", "metric/is_std"}
    assert (real, made) == (5_200, 50_000)
    generated[-1] = 0
    assert judged_by(generated, "inception")[0]["metric/fid"] != values["metric/fid"]


def test_the_fast_protocol_is_named_as_such(
    judged_by: Judge, evaluators: Callable[..., dict[str, Evaluator]], images: Images
) -> None:
    settings = ("measure=[fid,is,kid,prc]", "num_kid_prc=300", "kid_subset_size=100")
    values, real, made = judged_by(images(5_000, seed=2), "fast", *settings)
    assert (real, made) == (5_000, 5_000)
    assert len(values) == 7
    assert values.keys() >= {"metric/fid_5k_5k", "metric/is_5k_mean", "metric/kid_300_300_subsets100_mean"}
    (usual,) = evaluators("metrics=inception", "metrics.inception.measure=[fid,is,kid,prc]").values()
    assert not values.keys() & {name for names in usual.names.values() for name in names}


def test_several_protocols_at_once_are_named_apart(evaluators: Callable[..., dict[str, Evaluator]]) -> None:
    made = evaluators("metrics=[inception,paper,fast]", "metrics.fast.every=7", "train.evaluate_every=3")
    assert {name: one.names["fid"] for name, one in made.items()} == {
        "inception": ("metric/fid",),
        "paper": ("metric/fid_10k_5k_separate",),
        "fast": ("metric/fid_5k_5k",),
    }
    figures = [name for one in made.values() for names in one.names.values() for name in names]
    assert len(figures) == len(set(figures)) == 9
    assert {name: one.every for name, one in made.items()} == {"inception": 3, "paper": 3, "fast": 7}


def test_the_documentation_names_what_comes_out(evaluators: Callable[..., dict[str, Evaluator]]) -> None:
    documented = {
        cells[1].strip("` "): re.findall(r"`(metric/\w+)`", cells[6])
        for line in DOCUMENT.read_text().splitlines()
        if len(cells := line.split("|")) == 8 and "`metric/" in line
    }
    assert documented.keys() == {"inception", "paper", "fast", "lite", "digits"}
    for name, figures in documented.items():
        dataset = "digits" if name == "digits" else "cifar10"
        (one,) = evaluators(f"metrics={name}", dataset=dataset).values()
        assert figures == list(chain.from_iterable(one.names.values()))


def test_no_metrics() -> None:
    config = load(compose(["metrics=none"]))
    assert build.build_evaluators(config, None, CPU) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metrics.digits.measure=[]"], r"metrics.digits.measure=\[\]"),
        (
            ["metrics.digits.measure=[fid,lpips]"],
            "metrics.digits.measure=lpips is none of fid, is, kid, prc, dc",
        ),
        (["metrics.digits.num_generated=5"], "is_splits=10 exceeds metrics.digits.num_generated=5"),
        (["metrics.digits.num_generated=null"], "metrics.digits.num_generated=None is not a whole number"),
        (["metrics.digits.num_fid=1"], "metrics.digits.num_fid=1"),
        (["metrics.digits.num_real=2.5"], "metrics.digits.num_real=2.5 is not a whole number"),
        (["metrics.digits.kid_subset_size=0"], "metrics.digits.kid_subset_size=0"),
        (["metrics.digits.num_kid_prc=true"], "metrics.digits.num_kid_prc=true"),
        (["metrics.digits.is_outputs=1"], "metrics.digits.is_outputs=1"),
        (["metrics.digits.fid_separate=2"], "metrics.digits.fid_separate=2 is neither true nor false"),
        (["metrics.digits.every=-1"], "metrics.digits.every=-1"),
        (["dataset=cifar10", "metrics=digits"], "judges digits only, not dataset=cifar10"),
        (["dataset=cifar10", "metrics=[inception,digits]"], "judges digits only, not dataset=cifar10"),
    ],
)
def test_metrics_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(compose(overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["dataset=cifar10", "metrics=inception", "metrics.inception.extractor.precision=fp16"],
            "precision=fp16 is none of exact, tf32, bf16",
        ),
        (["+metrics.digits.extractor.precision=bf16"], "metrics.digits .*precision"),
        (["+metrics.digits.extractor.weights=/some/file"], "metrics.digits .*weights"),
        (["metrics.digits.extractor._target_=gan_lab.metrics.extractors.vgg"], "metrics.digits .*vgg"),
        (["+metrics.digits.num_fidd=5"], "metrics.digits .*num_fidd"),
    ],
)
def test_an_extractor_that_does_not_fit_is_refused_before_it_judges(
    overrides: list[str],
    message: str,
    images: Images,
    array_of: Callable[..., ImageArray],
    digits_weights: Path,
) -> None:
    data = digits_weights.parent.parent
    config = load(compose([f"paths.data={data}", *overrides]))
    with pytest.raises(UserError, match=message):
        build.build_evaluators(config, array_of(images(20, seed=1)), CPU)


def figure(metric: str, numbers: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a figure is a function of: its samples and real images (None: all), and its formula's numbers.

    A protocol that asks for more samples than are made takes what there are.
    """
    made = numbers["num_generated"]
    if metric == "is":
        return made, numbers["is_splits"], numbers["is_outputs"]
    if metric == "fid":
        wanted, separate = numbers["num_fid"] or made, numbers["fid_separate"]
        return wanted if separate else min(wanted, made), separate, numbers["num_real"]
    taken = min(numbers["num_kid_prc"] or made, made), numbers["num_kid_prc"]
    return (*taken, numbers["kid_subset_size"]) if metric == "kid" else taken


# The usual ones among them, and what could be written alike.
SOME = [5, 10, 50, 100, 1000, 1001, 2000, 5000, 10_000, 50_000, 500_000]
NUMBERS: dict[str, list[Any]] = {
    "num_generated": SOME,
    "num_fid": [None, *SOME],
    "fid_separate": [False, True],
    "num_real": [None, *SOME],
    "num_kid_prc": [None, *SOME],
    "is_splits": SOME,
    "is_outputs": [None, *SOME],
    "kid_subset_size": SOME,
}


@pytest.mark.parametrize("changed", list(combinations(NUMBERS, 2)), ids="-".join)
@given(
    numbers=st.fixed_dictionaries({name: st.sampled_from(some) for name, some in NUMBERS.items()}),
    usual=st.sampled_from(SOME),
)
@settings(max_examples=10, deadline=None)
def test_figures_have_one_name_if_and_only_if_their_numbers_are_the_same(
    changed: tuple[str, str], numbers: dict[str, Any], usual: int
) -> None:
    """Whatever two of the numbers are, with any others."""
    protocols = [
        numbers | dict(zip(changed, values, strict=True))
        for values in product(*(NUMBERS[key] for key in changed))
    ]
    for metric in METRICS:
        named: dict[str, Any] = {}
        names: dict[Any, str] = {}
        for some in protocols:
            name, what = Protocol(**some).suffix(metric, usual), figure(metric, some)
            assert named.setdefault(name, what) == what, (metric, name)
            assert names.setdefault(what, name) == name, (metric, what)


@pytest.mark.parametrize("usual", [2_000, 50_000])
def test_the_usual_numbers_are_not_in_the_names(usual: int) -> None:
    protocol = Protocol(num_generated=usual)
    assert {protocol.suffix(metric, usual) for metric in METRICS} == {""}
