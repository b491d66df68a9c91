"""Every norm, loss, penalty and augmentation trains to the end and resumes; what is refused, and why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gan_lab.config import compose, load
from gan_lab.errors import UserError
from gan_lab.presets import CONFIGS
from gan_lab.run import run

CHOICES = [
    f"{axis}={path.stem}"
    for axis in ("norm", "loss", "penalty", "augment")
    for path in sorted((CONFIGS / axis).glob("*.yaml"))
]
COMBINED = [
    "norm=sn arch.discriminator_norm=batch",
    "norm=bssn arch=resnet arch.discriminator_norm=layer train.precision=bf16",
    "norm=layer_norm loss=wgan_gp",
    "augment=diffaugment loss=wgan_gp train.precision=bf16",
    "experiment=r3gan arch.width=0.0625 penalty.every=2",
    "norm=gradient_normalization penalty=orthogonal loss=relativistic",
    "norm=sn norm.output=gradient train.precision=bf16",
]


def train(overrides: list[str]) -> Path:
    """Run to the end; returns the run's directory."""
    cfg = compose(overrides)
    assert run(cfg).exit_status == 0
    return load(cfg).run_directory


@pytest.mark.parametrize("choice", [*CHOICES, *COMBINED])
def test_each_trains_to_the_end_and_resumes_bit_for_bit(
    tiny: list[str], choice: str, tmp_path: Path, recorded: Callable[..., Any]
) -> None:
    """Probed, with several updates of D and an averaged generator; losses and scores move."""
    chosen = [*tiny, *choice.split(), "optimizer=adam_ndis5", "optimizer.n_dis=2", "train.ema=0.9"]
    chosen += ["train.log_every=1", "train.checkpoint_every=3", "probes.every=2", "init=xavier"]
    whole = train([*chosen, "train.iterations=5"])
    parted = [*chosen, f"paths.outputs={tmp_path}/parted"]
    train([*parted, "train.iterations=3"])
    resumed = train([*parted, "train.iterations=5"])
    assert recorded(resumed) == recorded(whole)
    weights = "generator.safetensors"
    assert (resumed / weights).read_bytes() == (whole / weights).read_bytes()
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5]
    for name in ("loss/d", "loss/g", "score/real"):
        assert len({row[name] for row in rows}) == 5, name
    assert {"slope/real_mean", "grad_norm/d/linear"} <= rows[3].keys()


@pytest.mark.parametrize(
    ("choices", "has_lipschitz", "has_bounds", "reason"),
    [
        ("norm=layer_norm", True, True, ""),
        ("norm=batch_norm", True, False, "batch norm in training mode"),
        ("norm=sn norm.output=gradient", False, False, "its scores jump where its slope does"),
        ("norm=sn penalty=orthogonal augment=diffaugment", True, False, ""),
        ("norm=sn loss=relativistic augment=diffaugment", True, True, ""),
    ],
)
def test_an_audit_knows_each_or_says_why_not(
    tiny: list[str], choices: str, has_lipschitz: bool, has_bounds: bool, reason: str
) -> None:
    chosen = [*tiny, *choices.split(), "init=xavier", "train.iterations=2", "train.log_every=1"]
    directory = train([*chosen, "probes.every=1", "probes.audit_every=1", "probes.every=1"])
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert "operator_norm/conv3" in row
        assert ("lipschitz/d" in row) == has_lipschitz
        bounds = {name: value for name, value in row.items() if name.startswith("grad_bound/d/")}
        assert bool(bounds) == has_bounds
        assert all(row[name.replace("bound", "norm")] <= bound for name, bound in bounds.items())
    said = [
        line for line in (directory / "train.log").read_text().splitlines() if "no gradient bounds" in line
    ]
    assert bool(said) == bool(reason)
    assert all(reason in line for line in said)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ("arch.discriminator_norm=batch penalty=r1", "under batch norm it depends on its whole batch"),
        ("norm=batch_norm loss=wgan_gp", "under batch norm it depends on its whole batch"),
        ("norm=layer_norm arch.discriminator_norm=none", "arch.discriminator_norm=none: leave that out"),
        ("norm=layer_norm arch.discriminator_norm=batch", "arch.discriminator_norm=batch: leave that out"),
        ("norm=gradient_normalization penalty=r1", r"makes that a function of the score, \(1 - \|score\|\)²"),
        ("norm=gradient_normalization loss=wgan_gp", "makes that a function of the score"),
        ("norm=batch_norm norm.output=gradient", "divides a score by its own image's slope"),
        ("norm=gradient_normalization penalty=r1_r2", "penalty=r1_r2 is on a slope"),
        ("norm=batch_norm penalty=dragan", "penalty=dragan is on the slope of an image's own score"),
        ("penalty=r1 penalty.every=0", "penalty.every=0 is not a whole number from 1"),
        ("norm.output=slope", "none of none, gradient"),
        ("arch.discriminator_norm=spectral", "none of none, layer, group, instance, batch"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(choices: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load(compose(["experiment=tiny", *choices.split()]))


def test_r3gan_is_its_loss_and_penalties_on_these_networks() -> None:
    config = load(compose(["experiment=r3gan", "dataset=cifar10"]))
    axes = (
        config.arch.name,
        config.norm.name,
        config.loss.name,
        config.penalty.name,
        config.penalty.coefficient,
    )
    assert axes == ("dcgan", "none", "relativistic", "r1_r2", 0.05)
    assert config.optimizer.generator["betas"] == config.optimizer.discriminator["betas"] == [0, 0.99]
    assert (config.optimizer.g_lr, config.optimizer.d_lr, config.optimizer.n_dis) == (2e-4, 2e-4, 1)


@pytest.mark.parametrize(
    "choice",
    [
        "norm=gradient_normalization",
        "norm=layer_norm",
        "norm=batch_norm",
        "norm=none penalty=dragan",
        "norm=none penalty=orthogonal",
        "norm=sn loss=relativistic penalty=r1_r2",
        "norm=sn augment=diffaugment",
    ],
)
def test_a_discriminator_against_a_resting_generator_learns(tiny: list[str], choice: str) -> None:
    """Each real image is told from the generated ones better than at the start."""
    chosen = [
        "optimizer.g_lr=0",
        "optimizer.d_lr=1e-3",
        "init=xavier",
        "train.iterations=20",
        "probes.every=0",
    ]
    directory = train([*tiny, *choice.split(), *chosen, "train.log_every=1"])
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["score/real"] - row["score/fake"] for row in rows]
    assert sum(gaps[-3:]) > sum(gaps[:3])
    losses = [row["loss/d"] - row.get("loss/penalty", 0) for row in rows]
    assert sum(losses[-3:]) < sum(losses[:3])
