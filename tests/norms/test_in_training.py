"""Norms, audits and bounds inside whole runs."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from gan_lab import build, norms, run
from gan_lab.config import compose, load
from gan_lab.norms import SigmaOperator, SigmaOut, parametrization, power_iteration, sigma
from gan_lab.presets import CONFIGS

Recorded = Callable[[Path], list[dict[str, float]]]


def train(tiny: list[str], *overrides: str) -> Path:
    cfg = compose([*tiny, "train.sample_every=0", "probes.every=2", *overrides])
    assert run.run(cfg).exit_status == 0
    return load(cfg).run_directory


@pytest.mark.parametrize(
    "overrides",
    [
        ["norm=none"],
        ["norm=none", "arch=resnet", "loss=nonsaturating"],
        ["norm=sn", "norm.gamma=shared"],
        ["norm=bssn", "norm.gamma=per_layer", "loss=wasserstein", "optimizer.n_dis=2"],
        ["norm=strict_sn", "arch=resnet"],
        ["norm=weight_norm"],
        ["norm=clipped_strict_sn", "norm.scale=0.5"],
        ["norm=gram", "arch=resnet"],
        ["norm=stable_rank"],
    ],
    ids=" ".join,
)
def test_no_gradient_exceeds_its_bound(tiny: list[str], recorded: Recorded, overrides: list[str]) -> None:
    rates = ["optimizer.d_lr=1e-2", "optimizer.g_lr=1e-2"]
    directory = train(tiny, "train.iterations=6", "probes.audit_every=3", *rates, *overrides)
    rows = [row for row in recorded(directory) if row["iteration"] in (3, 6)]
    assert len(rows) == 2
    for row in rows:
        measured = {name: value for name, value in row.items() if name.startswith("grad_norm/d/")}
        assert len(measured) >= 8
        for name, value in measured.items():
            assert value <= row[name.replace("norm", "bound")] * (1 + 1e-6), name
        assert max(measured.values()) > 0
        assert row["slope/fake_max"] <= row["lipschitz/d"]
        assert row["slope/real_max"] <= row["lipschitz/d"]
        if "norm=none" not in overrides:
            errors = [value for name, value in row.items() if name.startswith("sigma_error/")]
            assert len(errors) == len(measured)
            assert all(math.isfinite(error) for error in errors)


@pytest.mark.parametrize(("n_dis", "target"), [(1, "discriminator"), (3, "discriminator"), (2, "both")])
def test_vectors_move_once_in_each_update_of_their_network(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, n_dis: int, target: str
) -> None:
    """Not for the second of two passes, the other network's updates, probes, audits, or samples."""
    steps: Counter[int] = Counter()
    kinds: dict[int, str] = {}
    iterate = power_iteration.power_iterate

    def counted(maps: Sequence[tuple[SigmaOut, Tensor]]) -> power_iteration.Iterates:
        steps.update(id(value) for value, _ in maps)
        return iterate(maps)

    build_networks = build.build_networks

    def remembered(*arguments: object) -> tuple[nn.Module, nn.Module]:
        networks = build_networks(*arguments)
        for kind, network in zip(("generator", "discriminator"), networks, strict=True):
            for _, _, norm in norms.normalized_layers(network):
                kinds[id(norm.estimator)] = kind
        steps.clear()  # of the warm-up
        return networks

    for module in (parametrization, sigma):
        monkeypatch.setattr(module, "power_iterate", counted)
    monkeypatch.setattr(build, "build_networks", remembered)
    iterations = 5
    overrides = ["norm=sn", f"norm.target={target}", f"optimizer.n_dis={n_dis}", "train.sample_every=2"]
    overrides += ["norm.n_power_iterations=1"]
    train(tiny, f"train.iterations={iterations}", "probes.audit_every=4", *overrides)
    expected = {"discriminator": n_dis * iterations}
    if target == "both":
        expected["generator"] = iterations
    assert set(kinds.values()) == set(expected)
    assert steps == {key: expected[kind] for key, kind in kinds.items()}


@pytest.mark.parametrize("norm", ["sn", "strict_sn"])
def test_more_iterations_an_update_keep_up_better(tiny: list[str], recorded: Recorded, norm: str) -> None:
    """While weights move fast: no estimate is above its exact value, and ten steps an update are near it."""
    worst = []
    for count in (1, 10):
        options = ["train.iterations=20", "probes.audit_every=20", f"norm.n_power_iterations={count}"]
        options.append("optimizer=adam_2e4")
        row = recorded(train(tiny, f"norm={norm}", *options))[-1]
        layers = [name.removeprefix("sigma_exact/") for name in row if name.startswith("sigma_exact/")]
        assert len(layers) == 8
        for layer in layers:
            exact, estimate = row[f"sigma_exact/{layer}"], row[f"sigma/{layer}"]
            assert estimate <= exact * (1 + 1e-5)
            assert row[f"sigma_error/{layer}"] == pytest.approx(1 - estimate / exact, abs=1e-5)
        worst.append(max(row[f"sigma_error/{layer}"] for layer in layers))
    assert worst[1] < min(0.02, worst[0])


WEIGHT_NORMS = [
    "frobenius",
    "weight_norm",
    "forced_weight_norm",
    "clipped_sn",
    "clipped_strict_sn",
    "spectral_condition",
    "certified",
    "least_of_four",
    "gram",
    "stable_rank",
]


@pytest.mark.parametrize("norm", WEIGHT_NORMS)
def test_a_resumed_run_has_the_same_bits(tiny: list[str], norm: str) -> None:
    """In both networks, in bf16, with an average of the generator: all that a norm could disturb, at once."""
    options = [
        f"norm={norm}",
        "norm.target=both",
        "train.precision=bf16",
        "train.ema=0.9",
        "train.batch_size=4",
    ]
    straight = train([*tiny, *options], "train.iterations=4", "seed=1", f"{tiny[-1]}-straight")
    train([*tiny, *options], "train.iterations=2", "seed=1")
    resumed = train([*tiny, *options], "train.iterations=4", "seed=1")
    for name in ("generator.safetensors", "metrics.jsonl"):
        assert comparable(resumed / name) == comparable(straight / name)


def comparable(path: Path) -> bytes | list[dict[str, float]]:
    if path.suffix != ".jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("speed/", "memory/"))} for row in rows]


def test_gammas_are_logged_and_trained(tiny: list[str], recorded: Recorded) -> None:
    rows = recorded(train(tiny, "norm=bssn", "norm.gamma=per_layer", "norm.scale=1.4", "train.iterations=8"))
    gammas = {name: value for name, value in rows[-1].items() if name.startswith("gamma/")}
    assert len(gammas) == 8
    assert all(value != 1.4 for value in gammas.values())
    assert all(value == pytest.approx(1.4, abs=0.01) for value in gammas.values())  # 8 small steps of Adam
    shared = recorded(train(tiny, "norm=bssn", "norm.gamma=shared", "train.iterations=8"))[-1]
    assert len({value for name, value in shared.items() if name.startswith("gamma/")}) == 1


def test_a_normalized_generator_is_trained_and_written(tiny: list[str], recorded: Recorded) -> None:
    """Its transposed convolutions too, with one scale for all of its layers."""
    overrides = ["norm=strict_sn", "norm.target=generator", "norm.gamma=shared", "train.iterations=4"]
    directory = train(tiny, *overrides)
    row = recorded(directory)[-1]
    assert {name for name in row if name.startswith("sigma/")} == {
        f"sigma/g.{layer}" for layer in ("linear", "deconv1", "deconv2", "deconv3", "deconv4")
    }
    assert (directory / "generator.safetensors").exists()


def test_networks_of_a_config_are_normalized_at_their_own_sizes(tiny: list[str]) -> None:
    config = load(compose([*tiny, "norm=strict_sn", "norm.target=both", "arch.width=0.02"]))
    generator, discriminator = build.build_networks(config, torch.device("cpu"))
    for network in (generator, discriminator):
        for _, layer, norm in norms.normalized_layers(network):
            assert isinstance(norm.estimator, SigmaOperator)
            assert norm.training is layer.training is True
    sizes = {name: norm.estimator.input_size for name, _, norm in norms.normalized_layers(discriminator)}
    assert [sizes[f"conv{index}"][0] for index in range(7)] == [32, 32, 16, 16, 8, 8, 4]
    assert [norm.estimator.input_size for _, _, norm in norms.normalized_layers(generator)] == [
        (), (4, 4), (8, 8), (16, 16), (32, 32)
    ]  # fmt: skip


def test_one_sweep_has_every_norm_that_there_is() -> None:
    """`python train.py -m experiment=families`, each of them a config that makes sense and builds."""
    preset = yaml.safe_load((CONFIGS / "experiment" / "families.yaml").read_text(encoding="utf-8"))
    listed = preset["hydra"]["sweeper"]["params"]["norm"].replace(" ", "").split(",")
    assert sorted(listed) == sorted(path.stem for path in (CONFIGS / "norm").glob("*.yaml"))
    for norm in listed:
        config = load(compose(["experiment=families", f"norm={norm}", "arch.width=0.02"]))
        assert config.norm.name == norm
        build.build_networks(config, torch.device("cpu"))
