"""The extractor of examples/extractor, joined from outside the package through the command line alone."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_lab.build import build_evaluators, load_images
from gan_lab.config import compose, load
from gan_lab.errors import UserError
from gan_lab.evaluate import judge
from gan_lab.metrics.extractors import Extractor
from gan_lab.run import run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/extractor"
CONFIGS = EXAMPLE / "configs"
BOTH = [
    "metrics=[digits,random]",
    "metrics.digits.num_generated=40",
    "metrics.random.num_generated=50",
    "metrics.random.kid_subset_size=20",
]
FID, KID = "metric/fid_random0_50", "metric/kid_random0_50_10k_subsets20_mean"


def extractor(seed: int) -> Extractor:
    return importlib.import_module("random_features").random_features(seed)


def test_it_judges_next_to_another_each_at_its_interval(
    tiny: list[str],
    tmp_path: Path,
    train_py: Callable[..., Any],
    recorded: Callable[[Path], list[dict[str, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    training = ["train.iterations=5", "train.log_every=1", "init=xavier"]
    intervals = ["metrics.digits.every=2", "metrics.random.every=3"]
    done = train_py("--config-dir", str(CONFIGS), *tiny, *training, *BOTH, *intervals)
    assert done.returncode == 0, done.stderr
    assert "judging by fid, kid of 50 samples" in done.stdout
    (directory,) = (tmp_path / "outputs/digits/dcgan/bssn").glob("seed0-*")
    rows = recorded(directory)
    at = {name: [row["iteration"] for row in rows if name in row] for row in rows for name in row}
    assert at["metric/fid_digits_40"] == at["metric/is_digits_40_mean"] == [2, 4, 5]
    assert at[FID] == at[KID] == [3, 5]

    # Judged anew under its own protocols: the same names and numbers.
    own = ["device=cpu", *(override for override in tiny if override.startswith("paths.data"))]
    values = judge(directory, overrides=own, config_dir=CONFIGS).values
    assert values == {name: value for name, value in rows[-1].items() if name.startswith("metric/")}
    with pytest.raises(UserError, match=r"metrics/random.*--config-dir"):
        judge(directory, overrides=own)

    # Metrics measure and do not train: without any, the same losses, the same generator.
    elsewhere = compose([*tiny, *training, f"paths.outputs={tmp_path}/elsewhere"])
    assert run(elsewhere).exit_status == 0
    plain = load(elsewhere).run_directory
    assert plain.name == directory.name
    without = [{k: v for k, v in row.items() if not k.startswith("metric/")} for row in rows]
    assert recorded(plain) == without
    name = "generator.safetensors"
    assert (plain / name).read_bytes() == (directory / name).read_bytes()


def test_a_seed_is_an_extractor_with_names_and_features_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    (one, _), (again, _), (other, _) = (extractor(seed)(images) for seed in (0, 0, 1))
    assert one.shape == (5, 128)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert extractor(0).suffix != extractor(1).suffix
    assert extractor(0).identity != extractor(1).identity


def test_its_fid_tells_noise_from_digits(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    config = load(compose([*tiny, *BOTH, f"paths.data={tmp_path}"], CONFIGS))
    array = load_images(config)
    evaluator = build_evaluators(config, array, torch.device("cpu"))["random"]
    real = torch.from_numpy(np.array(array.images[:50]))
    noise = torch.randint(0, 256, real.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    near, far = (evaluator.evaluate(lambda a, b, some=some: some[a:b]) for some in (real, noise))
    assert near[FID] < 0.1 * far[FID]
    assert near[KID] < 0.1 * far[KID]


def test_names_that_two_extractors_share_are_refused(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    module = importlib.import_module("random_features")
    monkeypatch.setattr(module, "random_features", lambda seed: Extractor(torch.nn.Identity(), {}, "_digits"))
    config = load(compose([*tiny, *BOTH, "metrics.random.num_generated=40"], CONFIGS))
    array = load_images(config)
    monkeypatch.setattr("gan_lab.metrics.evaluation.of_real", lambda *_: ({}, torch.empty(0)))
    with pytest.raises(UserError, match="metrics=digits and metrics=random both call a figure metric/fid_di"):
        build_evaluators(config, array, torch.device("cpu"))


def test_without_its_folder_on_the_path_it_says_so(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "random_features", raising=False)
    assert run(compose([*tiny, "metrics=random"], CONFIGS)).exit_status == 2
    message = capsys.readouterr().err
    assert "random_features" in message
    assert message.count("\n") == 1
