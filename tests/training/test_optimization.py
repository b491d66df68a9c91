"""What an update does, through the whole program: penalties, batch sizes, decays, the moving average."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from signalling import stopped_at
from toys import IMAGES, LABELS, LATENTS, SIZE

from gan_lab import build
from gan_lab.build import build_networks
from gan_lab.config import compose, load, resolved
from gan_lab.data import write_array
from gan_lab.images import write_grid
from gan_lab.norms.apply import trained_weight
from gan_lab.penalties import GradientPenalty
from gan_lab.rng import stream
from gan_lab.run import run
from gan_lab.training.samples import generate


@pytest.fixture
def base(tiny: list[str]) -> list[str]:
    return [*tiny, "probes.every=0", "train.log_every=1"]


def train(overrides: list[str]) -> Path:
    """Run to the end; returns the run's directory."""
    cfg = compose(overrides)
    assert run(cfg).exit_status == 0
    return load(cfg).run_directory


def rows(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def last_checkpoint(directory: Path) -> dict[str, Any]:
    return torch.load(max((directory / "checkpoints").glob("*.pt")), weights_only=True)


def identity(*overrides: str) -> str:
    return load(compose(["experiment=tiny", *overrides])).run_id


# --- penalties and losses


@pytest.mark.parametrize("choice", ["penalty=r1", "penalty=gradient_penalty", "loss=wgan_gp"])
def test_the_penalty_is_a_logged_term_of_the_loss(base: list[str], choice: str) -> None:
    for row in rows(train([*base, choice, "train.iterations=3"])):
        assert row["loss/penalty"] > 0
        total = row["loss/d_real"] + row["loss/d_fake"] + row["loss/penalty"]
        assert row["loss/d"] == pytest.approx(total, rel=1e-5)


def test_each_update_draws_its_own_points(base: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The mixing is a function of (seed, iteration, step), as a resumed run needs."""
    drawn: list[int] = []
    draw = GradientPenalty.draw

    def watched(self: GradientPenalty, count: int, rng: torch.Generator) -> torch.Tensor:
        drawn.append(rng.initial_seed())
        return draw(self, count, rng)

    monkeypatch.setattr(GradientPenalty, "draw", watched)
    train([*base, "loss=wgan_gp", "optimizer.n_dis=2", "train.iterations=2", "seed=3"])
    indices = [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert drawn == [stream(3, "penalty", *index).initial_seed() for index in indices]
    assert len(set(drawn)) == 4


def test_without_a_penalty_there_is_none_in_the_log(base: list[str]) -> None:
    row = rows(train([*base, "train.iterations=1"]))[0]
    assert "loss/penalty" not in row
    assert row["loss/d"] == pytest.approx(row["loss/d_real"] + row["loss/d_fake"], rel=1e-6)


def test_probing_does_not_change_a_run_with_a_penalty(base: list[str], tmp_path: Path) -> None:
    chosen = [*base, "loss=wgan_gp", "norm=bssn", "train.iterations=4"]
    quiet = train(chosen)
    probed = train([*chosen, "probes.every=1", f"paths.outputs={tmp_path}/probed"])
    assert "slope/real_mean" in rows(probed)[0]
    assert (quiet / "generator.safetensors").read_bytes() == (probed / "generator.safetensors").read_bytes()


def test_wgan_gp_is_wasserstein_with_the_gradient_penalty() -> None:
    config = load(compose(["loss=wgan_gp"]))
    assert config.plain["loss"]["_target_"] == "gan_lab.losses.Wasserstein"
    assert config.penalty.name == "gradient_penalty"
    assert config.penalty.coefficient == 10


def test_wgan_gp_without_its_penalty_is_refused(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(compose([*base, "loss=wgan_gp", "penalty=r1"])).exit_status == 2
    assert "take loss=wasserstein" in capsys.readouterr().err


@pytest.mark.parametrize("penalty", ["none", "gradient_penalty", "r1"])
@pytest.mark.parametrize("loss", ["hinge", "nonsaturating", "wasserstein"])
def test_a_discriminator_against_a_resting_generator_learns(base: list[str], loss: str, penalty: str) -> None:
    chosen = ["optimizer.g_lr=0", "optimizer.d_lr=1e-3", "init=xavier", "norm=sn", "train.iterations=12"]
    losses = [row["loss/d"] for row in rows(train([*base, f"loss={loss}", f"penalty={penalty}", *chosen]))]
    assert sum(losses[-3:]) < sum(losses[:3])


# --- optimizers


def test_optimizers_have_the_reference_s_numbers() -> None:
    """(lr of G, lr of D, betas of G, betas of D, D updates for one of G)."""
    table = {
        "adam": (1e-4, 1e-4, [0.5, 0.999], [0.5, 0.999], 1),
        "adam_ndis5": (1e-4, 1e-4, [0.5, 0.9], [0.5, 0.9], 5),
        "sngan": (2e-4, 2e-4, [0.0, 0.9], [0.0, 0.9], 5),
        "ttur": (1e-4, 3e-4, [0.5, 0.9], [0.5, 0.9], 1),
    }
    for name, expected in table.items():
        node = resolved(compose([f"optimizer={name}"]))["optimizer"]
        assert node["name"] == name
        assert node["decay"] == "none"
        g, d = node["generator"], node["discriminator"]
        assert (g["lr"], d["lr"], g["betas"], d["betas"], node["n_dis"]) == expected


def test_linear_decay_reaches_zero_after_the_last_iteration(base: list[str]) -> None:
    chosen = ["optimizer.g_lr=2e-4", "optimizer.d_lr=8e-4", "train.iterations=5", "train.checkpoint_every=1"]
    directory = train([*base, *chosen, "optimizer.decay=linear", "train.keep_every=1"])
    for path in sorted((directory / "checkpoints").glob("*.pt")):
        state = torch.load(path, weights_only=True)
        left = 1 - state["iteration"] / 5
        assert state["g_optimizer"]["param_groups"][0]["lr"] == pytest.approx(2e-4 * left)
        assert state["d_optimizer"]["param_groups"][0]["lr"] == pytest.approx(8e-4 * left)
    constant = last_checkpoint(train([*base, *chosen]))
    assert constant["g_optimizer"]["param_groups"][0]["lr"] == 2e-4


def test_iterations_are_part_of_the_identity_only_under_decay() -> None:
    assert identity("train.iterations=5") == identity("train.iterations=6")
    decaying = [identity("optimizer.decay=linear", f"train.iterations={n}") for n in (5, 6)]
    assert decaying[0] != decaying[1]


def test_an_unknown_decay_is_refused(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(compose([*base, "optimizer.decay=cosine"])).exit_status == 2
    assert "none, linear" in capsys.readouterr().err


# --- batch sizes


def test_each_network_s_update_has_its_own_batch_size(
    base: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[str, int]] = []

    def watched(*arguments: Any) -> Any:
        generator, discriminator = build_networks(*arguments)
        generator.register_forward_hook(lambda module, inputs, _: sizes.append(("G", len(inputs[0]))))
        discriminator.register_forward_hook(lambda module, inputs, _: sizes.append(("D", len(inputs[0]))))
        return generator, discriminator

    monkeypatch.setattr(build, "build_networks", watched)
    chosen = ["train.batch_size=3", "train.g_batch_size=7", "optimizer.n_dis=2", "train.iterations=1"]
    train([*base, *chosen, "norm=none", "train.sample_every=0"])
    discriminator_update = [("G", 3), ("D", 2 * 3)]  # real and generated images in one pass
    seen = sizes[sizes.index(("G", 3)) :]  # after the pass that asks whether it judges alone
    assert seen[:6] == [*discriminator_update, *discriminator_update, ("G", 7), ("D", 7)]


def test_the_generator_s_batch_follows_the_discriminator_s() -> None:
    assert load(compose(["train.batch_size=9"])).train.g_batch_size == 9


# --- moving average


def test_the_average_is_sampled_and_written(base: list[str], tmp_path: Path) -> None:
    overrides = [*base, "train.ema=0.8", "train.iterations=4"]
    directory = train(overrides)
    state = last_checkpoint(directory)
    written = load_file(directory / "generator.safetensors")
    assert written.keys() == state["ema"].keys()
    assert all(torch.equal(written[name], state["ema"][name]) for name in written)
    assert not torch.equal(written["linear.weight"], state["generator"]["linear.weight"])

    config = load(compose(overrides))
    generator, _ = build_networks(config, torch.device("cpu"))
    generator.load_state_dict(state["ema"])
    grid = generate(generator, config.arch.latent_dim, config.seed, "samples", 0, 100)
    expected = write_grid(tmp_path / "expected.png", grid)
    sampled = max((directory / "samples").glob("*.png"))
    assert Image.open(sampled).tobytes() == Image.open(expected).tobytes()


def test_without_an_average_the_generator_itself_is_written(base: list[str]) -> None:
    directory = train([*base, "train.iterations=2", "train.ema=0"])
    state = last_checkpoint(directory)
    assert "ema" not in state
    written = load_file(directory / "generator.safetensors")
    assert all(torch.equal(written[name], state["generator"][name]) for name in written)


def test_a_normalized_generator_is_averaged_and_loads_again(base: list[str]) -> None:
    """One γ for all layers, which safetensors would refuse to write as it is."""
    overrides = [*base, "norm.target=both", "norm.gamma=shared", "train.ema=0.8", "train.iterations=2"]
    directory = train(overrides)
    generator, _ = build_networks(load(compose(overrides)), torch.device("cpu"))
    written = load_file(directory / "generator.safetensors")
    generator.load_state_dict(written)
    assert torch.equal(
        generator.state_dict()["linear.bias"], last_checkpoint(directory)["ema"]["linear.bias"]
    )


def test_averaging_does_not_change_the_training(base: list[str]) -> None:
    plain = last_checkpoint(train([*base, "train.iterations=3"]))
    averaged = last_checkpoint(train([*base, "train.iterations=3", "train.ema=0.9"]))
    for part in ("generator", "discriminator"):
        assert all(torch.equal(plain[part][name], averaged[part][name]) for name in plain[part])


# --- all of it, stopped and resumed


def assert_resuming_is_exact(overrides: list[str], folder: Path, recorded: Callable[..., Any]) -> Path:
    """Of a run of six iterations that is stopped twice; returns its directory."""
    undisturbed = train(overrides)
    stopped = [*overrides, f"paths.outputs={folder}/stopped"]

    with stopped_at(2, 5):
        assert [run(compose(stopped)).exit_status for _ in range(2)] == [4, 4]
    resumed = train(stopped)

    assert [row["iteration"] for row in recorded(resumed)] == [1, 2, 3, 4, 5, 6]
    assert recorded(resumed) == recorded(undisturbed)
    for name in ("generator.safetensors", "samples/00000006.png"):
        assert (resumed / name).read_bytes() == (undisturbed / name).read_bytes(), name
    return resumed


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_is_exact_with_everything_on(
    base: list[str],
    tmp_path: Path,
    recorded: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    chosen = [
        "loss=wgan_gp",
        "optimizer=adam_ndis5",
        "optimizer.n_dis=2",
        "optimizer.decay=linear",
        "train.ema=0.9",
        "train.g_batch_size=5",
        "train.iterations=6",
        f"train.precision={precision}",
    ]
    assert_resuming_is_exact([*base, *chosen], tmp_path, recorded)


def test_a_run_with_labels_a_loss_of_both_scores_and_an_augmentation(
    base: list[str], tmp_path: Path, recorded: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the config, through probes, audits and samples, and resumed."""
    array = write_array(tmp_path / "toys.npy", IMAGES, {})
    monkeypatch.setattr(build, "load_images", lambda _: dataclasses.replace(array, labels=LABELS))
    chosen = [
        f"dataset.image_size={SIZE}",
        f"arch.latent_dim={LATENTS}",
        "arch.image_sizes=null",
        *("~arch.generator", "+arch.generator._target_=toys.ConditionalGenerator"),
        *("~arch.discriminator", "+arch.discriminator._target_=toys.Projection"),
        *("loss.name=relativistic", "loss._target_=toys.Relativistic"),
        *("augment.name=distortion", "augment._target_=toys.Distortion"),
        *("norm=sn", "penalty=r1", "train.ema=0.9", "train.g_batch_size=5", "optimizer.n_dis=2"),
        *("train.iterations=6", "probes.every=2", "probes.audit_every=3"),
    ]
    directory = assert_resuming_is_exact([*base, *chosen], tmp_path, recorded)
    last = rows(directory)[-1]
    assert {"loss/penalty", "slope/real_mean", "sigma/linear", "sigma_exact/linear"} <= last.keys()
    assert "loss/d_real" not in last
    begin = build_networks(load(compose([*base, *chosen])), torch.device("cpu"))
    state = last_checkpoint(directory)
    for network, name in zip(begin, ("generator", "discriminator"), strict=True):
        (trained,) = (
            value
            for key, value in state[name].items()
            if key in ("of_class.weight", "of_class.parametrizations.weight.original")
        )
        assert not torch.equal(trained_weight(network.of_class), trained)
