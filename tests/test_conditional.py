"""A pair of networks for images of classes, in a whole run, and what is done with the run afterwards."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_lab import terminal
from gan_lab.archs import dcgan
from gan_lab.commands import audit_norms, generate
from gan_lab.config import compose, load
from gan_lab.data import ImageArray, digits
from gan_lab.errors import UserError
from gan_lab.evaluate import judge
from gan_lab.load import load as load_trained
from gan_lab.run import run

ALLOW = [__name__]
DATASET = """
# @package _global_
defaults: [digits, override /metrics: digits]
dataset: {prepare: {_target_: test_conditional.labelled}}
"""


def labelled(root: Path, image_size: int) -> ImageArray:
    return dataclasses.replace(digits.prepare(root, image_size), labels=digits.load_grey()[1])


class Generator(nn.Module):
    def __init__(self, image_size: int, latent_dim: int, width: float) -> None:
        super().__init__()
        self.of_class = nn.Embedding(10, latent_dim)
        self.body = dcgan.Generator(image_size, latent_dim, width)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return self.body(latents + self.of_class(labels))


class Discriminator(nn.Module):
    def __init__(self, image_size: int, width: float, norm: str) -> None:
        super().__init__()
        self.of_class = nn.Embedding(10, 3)
        self.body = dcgan.Discriminator(image_size, width, norm)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.body(images + self.of_class(labels)[:, :, None, None])


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits and their classes as a choice of `dataset`."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "dataset").mkdir()
    (folder / "dataset/labelled.yaml").write_text(DATASET)
    return folder


@pytest.fixture(scope="module")
def trained(choices: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = [
        "experiment=tiny",
        "dataset=labelled",
        "arch.generator._target_=test_conditional.Generator",
        "arch.discriminator._target_=test_conditional.Discriminator",
        "norm=strict_sn",  # which needs a pass of an example
        "norm.target=both",
        "init=xavier",
        "metrics.digits.num_generated=60",
        "train.iterations=2",
        "tracker=local",
        "device=cpu",
        f"paths.data={data}",
        f"paths.outputs={tmp_path_factory.mktemp('outputs')}",
    ]
    config = compose(overrides, choices)
    assert run(config).exit_status == 0
    return load(config).run_directory


def test_judging_it_again_gives_the_figures_of_training(trained: Path, choices: Path, data: Path) -> None:
    (recorded,) = [
        row
        for row in map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
        if "metric/fid_digits_60" in row
    ]
    overrides = ["dataset=labelled", "metrics.digits.num_generated=60", f"paths.data={data}"]
    found = judge(trained, overrides=overrides, config_dir=choices, allow=ALLOW)
    assert found.values["metric/fid_digits_60"] == pytest.approx(recorded["metric/fid_digits_60"], rel=1e-5)


def test_against_images_without_its_classes_it_cannot_be_judged(trained: Path, data: Path) -> None:
    with pytest.raises(UserError, match="makes images of classes"):
        judge(trained, overrides=[f"paths.data={data}"], allow=ALLOW)


@pytest.mark.parametrize("kind", ["generator", "discriminator"])
def test_its_layers_are_audited(trained: Path, kind: str) -> None:
    _, network, example = audit_norms.of_run(trained, kind, ALLOW)
    assert len(example) == 2
    found = audit_norms.measured(network, example)
    assert len(found.layers) >= 5
    for row in found.layers:
        assert row.estimated == pytest.approx(row.exact, rel=0.2)  # after two iterations


def test_images_of_a_class_are_made(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> int:
        line = [str(trained), "--num", "4", "--device", "cpu", "--allow", *ALLOW, *arguments]
        return terminal.exit_status(lambda: generate.main(line))

    assert call("--label", "3", "--out", str(tmp_path / "threes.png")) == 0
    source = load_trained(trained, torch.device("cpu"), ALLOW)
    images = [source.generate(0, 4, "samples", labels=torch.full((4,), label)) for label in (3, 4)]
    assert not torch.equal(*images)
    assert np.asarray(images[0]).any()
    capsys.readouterr()
    for wrong, said in (([], "makes images of classes"), (["--label", "10"], "makes no images of class 10")):
        assert call(*wrong, "--out", str(tmp_path / "none.png")) == 2
        assert said in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["threes.png"]
