"""The trainer against a plain loop written here, and what it promises: exactness, and nothing on the side."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from gan_lab import norms
from gan_lab.data import Batches
from gan_lab.losses import Hinge
from gan_lab.rng import stream
from gan_lab.runs import checkpoint
from gan_lab.training import Diverged, Interrupted, Schedule, Trainer
from gan_lab.training.forward import IN_FULL_PRECISION, Execution

LATENTS, SIZE = 6, 8
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, SIZE, SIZE), np.uint8)
SEED, BATCH, G_BATCH, N_DIS = 3, 5, 7, 2

Optimizer = Callable[..., torch.optim.Optimizer]


def toy_generator() -> nn.Module:
    return nn.Sequential(
        nn.Linear(LATENTS, 8 * 4 * 4),
        nn.Unflatten(1, (8, 4, 4)),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )


def toy_discriminator() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(8 * 4 * 4, 1), nn.Flatten(0)
    )


def toys(estimator: Callable[..., Any] | None = None) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, discriminator = toy_generator(), toy_discriminator()
        if estimator:
            image = torch.zeros(1, 3, SIZE, SIZE)
            norms.normalize(discriminator, estimator, scale=1.5, example_input=image)
    return generator, discriminator


@dataclass
class Recording:
    """A sink that keeps what it is given."""

    rows: list[dict[str, float]] = field(default_factory=list)
    grids: list[tuple[int, bytes]] = field(default_factory=list)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        machine = ("speed/", "memory/")
        kept = {name: value for name, value in values.items() if not name.startswith(machine)}
        self.rows.append({"iteration": iteration, **kept})

    def log_samples(self, iteration: int, grid: Path) -> None:
        self.grids.append((iteration, grid.read_bytes()))


def judge(generate: Callable[[int, int], Tensor]) -> dict[str, float]:
    """A metric of several batches."""
    return {"metric/mean": sum(generate(4 * k, 4 * k + 4).float().mean().item() for k in range(3))}


def trainer(
    folder: Path,
    sink: Any = None,
    networks: tuple[nn.Module, nn.Module] | None = None,
    optimizer: Optimizer = torch.optim.Adam,
    lr: float = 1e-2,
    seed: int = SEED,
    n_dis: int = N_DIS,
    stop_requested: Callable[[], str | None] = lambda: None,
    execution: Execution = IN_FULL_PRECISION,
    **schedule: Any,
) -> Trainer:
    sink = sink or Recording()
    generator, discriminator = networks or toys()
    defaults = {
        "iterations": 8,
        "log_every": 1,
        "probe_every": 2,
        "audit_every": 0,
        "sample_every": 2,
        "evaluate_every": 3,
        "checkpoint_every": 2,
        "keep_every": 100,
        "max_score": 1e6,
        "stop_on_divergence": True,
    }
    return Trainer(
        generator=generator,
        discriminator=discriminator,
        loss=Hinge(),
        penalty=None,
        g_optimizer=optimizer(generator.parameters(), lr=lr),
        d_optimizer=optimizer(discriminator.parameters(), lr=lr),
        decays={},
        ema=None,
        batches=Batches(IMAGES, BATCH, seed, torch.device("cpu")),
        g_batch_size=G_BATCH,
        latent_dim=LATENTS,
        seed=seed,
        schedule=Schedule(**{"n_dis": n_dis, **defaults, **schedule}),
        sink=sink,
        evaluate=judge,
        samples=folder / "samples",
        checkpoints=folder / "checkpoints",
        record_length=lambda: len(sink.rows),
        stop_requested=stop_requested,
        execution=execution,
    )


def weights(trained: Trainer) -> dict[str, Tensor]:
    """Everything that training changes in the networks, buffers included."""
    pair = {"g": trained.generator, "d": trained.discriminator}
    states = {f"{key}.{name}": value for key, net in pair.items() for name, value in net.state_dict().items()}
    return {name: value.clone() for name, value in states.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# --- a second implementation


def real_images(iteration: int, step: int) -> Tensor:
    index = torch.randint(len(IMAGES), (BATCH,), generator=stream(SEED, "real images", iteration, step))
    return torch.from_numpy(IMAGES)[index].float().sub(127.5).mul(1 / 127.5)


def latents(iteration: int, step: int, count: int) -> Tensor:
    return torch.randn(count, LATENTS, generator=stream(SEED, "latents", iteration, step))


def plain_loop(
    generator: nn.Module,
    discriminator: nn.Module,
    iterations: int,
    optimizer: Optimizer,
    lr: float,
    effective: Callable[[bool], dict[str, Tensor]] = lambda moves: {},
) -> list[dict[str, float]]:
    """Miyato et al. 2018, algorithm 1, the hinge loss; `effective(moves)` gives weights in place of D's."""
    d_optimizer = optimizer(discriminator.parameters(), lr=lr)
    g_optimizer = optimizer(generator.parameters(), lr=lr)
    rows = []
    for iteration in range(1, iterations + 1):
        for step in range(N_DIS):
            fake = generator(latents(iteration, step, BATCH)).detach()
            replaced = effective(True)
            real_scores = functional_call(discriminator, replaced, (real_images(iteration, step),))
            fake_scores = functional_call(discriminator, replaced, (fake,))
            loss_real = torch.maximum(1 - real_scores, torch.zeros(())).mean()
            loss_fake = torch.maximum(1 + fake_scores, torch.zeros(())).mean()
            d_optimizer.zero_grad()
            (loss_real + loss_fake).backward()
            d_optimizer.step()
        scores = functional_call(
            discriminator, effective(False), (generator(latents(iteration, N_DIS, G_BATCH)),)
        )
        g_optimizer.zero_grad()
        (-scores.mean()).backward()
        g_optimizer.step()
        values = {
            "loss/d": loss_real + loss_fake,
            "loss/d_real": loss_real,
            "loss/d_fake": loss_fake,
            "score/real": real_scores.mean(),
            "score/fake": fake_scores.mean(),
            "loss/g": -scores.mean(),
        }
        rows.append({"iteration": iteration, **{name: value.item() for name, value in values.items()}})
    return rows


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_weights_and_losses_are_those_of_a_plain_loop(tmp_path: Path, optimizer: Optimizer) -> None:
    """Bit for bit, running statistics of batch norm included."""
    sink = Recording()
    trained = trainer(tmp_path, sink, optimizer=optimizer)
    trained.train()
    generator, discriminator = toys()
    rows = plain_loop(generator, discriminator, 8, optimizer, 1e-2)
    assert_same(weights(trained), weights(trainer(tmp_path, networks=(generator, discriminator))))
    assert [{name: row[name] for name in rows[0]} for row in sink.rows] == rows


def principal_axes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The 32nd power's largest column, and that of what is left without it."""

    def axis(matrix: Tensor) -> Tensor:
        power = torch.linalg.matrix_power(matrix.double() / matrix.abs().max(), 32)
        return F.normalize(power[:, power.diagonal().argmax()], dim=0).float()

    first = axis(matrix)
    return first, axis(matrix - torch.outer(matrix @ first, first))


def test_spectral_normalization_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    """One iteration for each update of D, from where the last one ended, and none for G's."""
    ours = toys(norms.SigmaOut)
    generator, discriminator = toys()
    layers = {"0": discriminator[0], "3": discriminator[3]}
    begin = {name: value.clone() for name, value in ours[1].state_dict().items()}
    norm = "parametrizations.weight"
    for name, layer in layers.items():
        layer.weight.data, layer.bias.data = begin[f"{name}.{norm}.original"], begin[f"{name}.bias"]
    u = {name: begin[f"{name}.{norm}.0.estimator.u"].flatten(1).t() for name in layers}
    v = {name: begin[f"{name}.{norm}.0.estimator.v"].flatten(1).t() for name in layers}

    def effective(moves: bool) -> dict[str, Tensor]:
        replaced = {}
        for name, layer in layers.items():
            matrix = layer.weight.movedim(1, -1).flatten(1)
            if moves:
                vectors = torch.cat([v[name], matrix.detach().T @ u[name]], 1)
                basis, _ = torch.linalg.qr(vectors[:, vectors.norm(dim=0) > 0])  # no direction at first
                images = matrix.detach() @ basis
                axes = torch.stack(principal_axes(images.T @ images))
                direction = torch.cat([torch.zeros(2), axes[0, 2:]])
                v[name] = F.normalize(basis @ torch.cat([axes, direction[None]]).T, dim=0)
                u[name] = F.normalize(images @ axes.T, dim=0)
            replaced[f"{name}.weight"] = 1.5 * layer.weight / (u[name][:, 0] @ matrix @ v[name][:, 0])
        return replaced

    trainer(tmp_path, networks=ours, optimizer=torch.optim.SGD).train()
    plain_loop(generator, discriminator, 8, torch.optim.SGD, 1e-2, effective)
    end = ours[1].state_dict()
    for name, layer in layers.items():
        reached = end[f"{name}.{norm}.original"]
        torch.testing.assert_close(reached, layer.weight.detach(), rtol=1e-3, atol=2e-5)
        overlap = end[f"{name}.{norm}.0.estimator.u"][0].flatten() @ u[name][:, 0]  # the sign is free
        torch.testing.assert_close(overlap.abs(), torch.ones(()), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(end[f"0.{norm}.0.estimator.u"], begin[f"0.{norm}.0.estimator.u"])
    for reached, expected_weight in zip(ours[0].parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(reached, expected_weight, rtol=1e-3, atol=2e-5)


# --- what each step touches


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("measure", [False, True])
def test_a_discriminator_step_does_not_differentiate_the_generator(tmp_path: Path, measure: bool) -> None:
    trained = trainer(tmp_path)
    before = {name: value.clone() for name, value in trained.generator.named_parameters()}
    differentiated: list[nn.Module] = []
    for layer in trained.generator:
        layer.register_full_backward_hook(lambda layer, *_: differentiated.append(layer))
    trained.discriminator_step(1, 0, measure)
    assert differentiated == []
    assert all(parameter.grad is None for parameter in trained.generator.parameters())
    assert all(torch.equal(before[name], value) for name, value in trained.generator.named_parameters())


@pytest.mark.parametrize("measure", [False, True])
def test_a_generator_step_does_not_differentiate_the_discriminator_s_weights(
    tmp_path: Path, measure: bool
) -> None:
    trained = trainer(tmp_path, networks=toys(norms.SigmaBidirectional))
    trained.discriminator_step(1, 0)
    before = snapshot(trained.discriminator)
    gradients = [parameter.grad for parameter in trained.discriminator.parameters()]
    copies = [gradient.clone() for gradient in gradients]
    trained.generator_step(1, measure)
    assert_same(snapshot(trained.discriminator), before)  # nor do its singular vectors move
    for parameter, gradient, value in zip(trained.discriminator.parameters(), gradients, copies, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, value)
        assert parameter.requires_grad


def test_what_does_not_require_a_gradient_is_left_so(tmp_path: Path) -> None:
    generator, discriminator = toys()
    discriminator[0].weight.requires_grad_(False)
    before = discriminator[0].weight.clone()
    trainer(tmp_path, networks=(generator, discriminator), probe_every=0).train()
    assert not discriminator[0].weight.requires_grad
    assert torch.equal(discriminator[0].weight, before)


def test_batch_norm_follows_every_training_pass_and_no_other(tmp_path: Path) -> None:
    """Its momentum is PyTorch's 0.1: running ← 0.9 · running + 0.1 · batch, for D's updates and for G's."""
    trained = trainer(tmp_path, n_dis=1)
    linear, unflatten, batch_norm = trained.generator[:3]
    expected = torch.zeros(8)
    for step, count in ((0, BATCH), (1, G_BATCH)):
        mean = unflatten(linear(latents(1, step, count))).mean(dim=(0, 2, 3)).detach()
        expected = 0.9 * expected + 0.1 * mean
    trained.discriminator_step(1, 0, measure=True)
    trained.generator_step(1, measure=True)
    torch.testing.assert_close(batch_norm.running_mean, expected)
    before = snapshot(trained.generator)
    trained.write_samples()
    judge(trained.generate)
    assert_same(snapshot(trained.generator), before)
    assert trained.generator.training


# --- what is recorded


def test_rows_have_the_names_that_tools_rely_on(tmp_path: Path) -> None:
    class Everything(Recording):
        def log(self, iteration: int, values: Mapping[str, float]) -> None:
            self.rows.append({"iteration": iteration, **values})

    sink = Everything()
    trainer(tmp_path, sink, networks=toys(norms.SigmaBidirectional), iterations=6).train()
    first, second, third = sink.rows[:3]
    always = {"iteration", "loss/d", "loss/d_real", "loss/d_fake", "loss/g", "score/real", "score/fake"}
    always |= {"speed/images_per_s", "speed/step_ms", "memory/peak_mb"}
    assert first.keys() == always
    assert third.keys() == always | {"metric/mean"}
    measured = {f"slope/{kind}_{part}" for kind in ("real", "fake") for part in ("mean", "min", "max")}
    measured |= {"grad_norm/d", "grad_norm/g", "grad_norm/g/0", "grad_norm/g/4"}
    layers = ("sigma", "sigma_out", "sigma_in", "grad_norm/d", "weight_var")
    measured |= {f"{name}/{layer}" for name in layers for layer in ("0", "3")}
    assert second.keys() >= always | measured
    assert all(math.isfinite(value) for row in sink.rows for value in row.values())
    assert all(row["speed/images_per_s"] > 0 and row["memory/peak_mb"] > 0 for row in sink.rows)


def test_probes_see_what_a_second_computation_sees(tmp_path: Path) -> None:
    """Slopes image by image, gradient norms and weight variances in NumPy, all at the first update of D."""
    sink = Recording()
    generator, discriminator = toys()
    fake = generator(latents(1, 0, BATCH)).detach()
    expected: dict[str, Any] = {}
    for kind, images in (("real", real_images(1, 0)), ("fake", fake)):
        slopes = []
        for image in images:
            image = image[None].clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(discriminator(image).sum(), image)
            slopes.append(float(np.linalg.norm(gradient.numpy())))
        expected |= {f"slope/{kind}_mean": np.mean(slopes)}
        expected |= {f"slope/{kind}_min": min(slopes), f"slope/{kind}_max": max(slopes)}
    loss = Hinge().discriminator(discriminator(real_images(1, 0)), discriminator(fake))
    sum(loss).backward()
    gradients = [parameter.grad.numpy().ravel() for parameter in discriminator.parameters()]
    expected["grad_norm/d"] = np.linalg.norm(np.concatenate(gradients))
    for layer in ("0", "3"):
        weight = discriminator.get_parameter(f"{layer}.weight")
        expected[f"grad_norm/d/{layer}"] = np.linalg.norm(weight.grad.numpy())
        expected[f"weight_var/{layer}"] = weight.detach().numpy().var()
    trainer(tmp_path, sink, n_dis=1, iterations=1, probe_every=1).train()
    (row,) = sink.rows
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_samples_are_of_the_generator_as_it_stands(tmp_path: Path) -> None:
    sink = Recording()
    trained = trainer(tmp_path, sink, iterations=5)
    trained.train()
    assert [iteration for iteration, _ in sink.grids] == [2, 4, 5]  # and at the end
    grids = [grid for _, grid in sink.grids]
    assert len(set(grids)) == 3
    assert trained.write_samples().read_bytes() == grids[-1]


def test_metrics_are_taken_at_their_interval_and_at_the_end(tmp_path: Path) -> None:
    sink = Recording()
    trainer(tmp_path, sink, iterations=7, log_every=2, probe_every=0).train()
    assert {row["iteration"] for row in sink.rows} == {2, 3, 4, 6, 7}
    assert [row["iteration"] for row in sink.rows if "metric/mean" in row] == [3, 6, 7]


def test_the_generator_is_written_whole(tmp_path: Path) -> None:
    trained = trainer(tmp_path)
    trained.train()
    trained.write_generator(tmp_path / "generator.safetensors")
    assert_same(load_file(tmp_path / "generator.safetensors"), snapshot(trained.generator))


def test_a_generator_whose_layers_share_a_scale_is_written(tmp_path: Path) -> None:
    trained = trainer(tmp_path)
    norms.normalize(trained.generator, norms.SigmaOut, gamma="shared")
    trained.write_generator(tmp_path / "generator.safetensors")
    assert_same(load_file(tmp_path / "generator.safetensors"), snapshot(trained.generator))


# --- exactness

Estimator = Callable[..., Any] | None
EVERY_NORM = pytest.mark.parametrize("estimator", [None, norms.SigmaBidirectional])


def run_through(folder: Path, estimator: Estimator = None, **options: Any) -> tuple[Trainer, Recording]:
    sink = Recording()
    trained = trainer(folder, sink, networks=toys(estimator), **options)
    trained.train()
    return trained, sink


def test_two_runs_are_the_same_bit_for_bit_and_another_seed_is_another_run(tmp_path: Path) -> None:
    one, first = run_through(tmp_path / "1")
    torch.rand(5)  # the global stream does not matter
    two, second = run_through(tmp_path / "2")
    assert_same(weights(one), weights(two))
    assert (first.rows, first.grids) == (second.rows, second.grids)
    other, third = run_through(tmp_path / "3", seed=SEED + 1)
    assert third.rows[0] != first.rows[0]
    assert not torch.equal(other.generator[0].weight, one.generator[0].weight)


@EVERY_NORM
def test_looking_does_not_change_the_training(tmp_path: Path, estimator: Estimator) -> None:
    """Logging, probes, audits, samples, metrics and checkpoints, at every iteration and never."""
    names = ["log", "probe", "audit", "sample", "evaluate", "checkpoint"]
    often, _ = run_through(tmp_path / "often", estimator, **{f"{name}_every": 1 for name in names})
    never = dict.fromkeys([f"{name}_every" for name in names], 0)
    rarely, _ = run_through(tmp_path / "rarely", estimator, **never)
    assert_same(weights(often), weights(rarely))


def resume(folder: Path, sink: Recording, estimator: Estimator, **options: Any) -> Trainer:
    """New objects, the newest checkpoint, and the record as long as it was then."""
    state = checkpoint.load_newest(folder / "checkpoints")
    assert state is not None
    del sink.rows[state["record_length"] :]
    sink.grids = [(iteration, grid) for iteration, grid in sink.grids if iteration <= state["iteration"]]
    trained = trainer(folder, sink, networks=toys(estimator), **options)
    with torch.no_grad():  # everything must come from the checkpoint
        for parameter in (*trained.generator.parameters(), *trained.discriminator.parameters()):
            parameter.add_(1)
    trained.load_checkpoint(state)
    trained.train()
    return trained


@EVERY_NORM
@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path, estimator: Estimator, length: int) -> None:
    """The first part ends by a signal; of the second's objects nothing but the checkpoint is the first's."""
    whole, expected = run_through(tmp_path / "whole", estimator)
    sink = Recording()
    first: Trainer = trainer(
        tmp_path / "parts",
        sink,
        networks=toys(estimator),
        stop_requested=lambda: "SIGTERM" if first.iteration == length else None,
    )
    with pytest.raises(Interrupted, match=f"SIGTERM .*iteration {length}"):
        first.train()
    second = resume(tmp_path / "parts", sink, estimator)
    assert_same(weights(second), weights(whole))
    assert sink.rows == expected.rows
    assert sink.grids == expected.grids


@EVERY_NORM
def test_a_run_that_is_cut_off_goes_on_from_its_checkpoint(tmp_path: Path, estimator: Estimator) -> None:
    """No signal, no goodbye: what came after the last checkpoint is done again, and counts once."""
    whole, expected = run_through(tmp_path / "whole", estimator)

    class Cut(Recording):
        def log(self, iteration: int, values: Mapping[str, float]) -> None:
            super().log(iteration, values)
            if iteration == 7:
                raise KeyboardInterrupt

    sink = Cut()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "parts", sink, networks=toys(estimator), checkpoint_every=5).train()
    assert [row["iteration"] for row in sink.rows] == [1, 2, 3, 4, 5, 6, 7]
    kept = Recording(sink.rows, sink.grids)
    second = resume(tmp_path / "parts", kept, estimator, checkpoint_every=5)
    assert_same(weights(second), weights(whole))
    assert (kept.rows, kept.grids) == (expected.rows, expected.grids)


def test_a_request_to_stop_does_not_wait_for_the_metrics(tmp_path: Path) -> None:
    """The metrics of iteration 3 are cut short, and taken when the run goes on: no row is lost or doubled."""
    whole, expected = run_through(tmp_path / "whole")
    answers = iter([None, None, "SIGUSR1"])  # before each batch of images

    def stop_requested() -> str | None:
        return next(answers) if first.iteration == 3 else None

    sink = Recording()
    first: Trainer = trainer(tmp_path / "parts", sink, stop_requested=stop_requested)
    with pytest.raises(Interrupted, match="SIGUSR1 in the metrics of iteration 3"):
        first.train()
    assert [row["iteration"] for row in sink.rows] == [1, 2]
    second = resume(tmp_path / "parts", sink, None)
    assert_same(weights(second), weights(whole))
    assert (sink.rows, sink.grids) == (expected.rows, expected.grids)


def test_a_longer_schedule_continues_a_finished_run(tmp_path: Path) -> None:
    sink = Recording()
    trainer(tmp_path / "parts", sink, iterations=4).train()
    longer = resume(tmp_path / "parts", sink, None, iterations=8)
    whole, _ = run_through(tmp_path / "whole", iterations=8)
    assert_same(weights(longer), weights(whole))


# --- divergence


def test_divergence_is_found_at_its_first_iteration(tmp_path: Path) -> None:
    """Looked for every eighth iteration only; the plain loop says where it was."""
    generator, discriminator = toys()
    rows = plain_loop(generator, discriminator, 8, torch.optim.Adam, 0.5)
    bound = 100.0
    names = ("loss/d", "loss/d_real", "loss/d_fake", "score/real", "score/fake", "loss/g")
    first = next(row for row in rows if not all(abs(row[name]) <= bound for name in names))
    quantity = next(name for name in names if not abs(first[name]) <= bound)
    when = int(first["iteration"])
    assert 1 < when < 8

    options = {"lr": 0.5, "max_score": bound, "probe_every": 0, "sample_every": 0, "evaluate_every": 0}
    trained = trainer(tmp_path, log_every=8, checkpoint_every=8, **options)
    with pytest.raises(Diverged) as diverged:
        trained.train()
    assert (diverged.value.iteration, diverged.value.quantity) == (when, quantity)
    assert f"{quantity} is {first[quantity]:g} at iteration {when}" in str(diverged.value)

    sound = toys()
    plain_loop(*sound, when - 1, torch.optim.Adam, 0.5)
    expected = weights(trainer(tmp_path, networks=sound))
    assert trained.iteration == when - 1
    assert_same(weights(trained), expected)
    state = checkpoint.load_newest(tmp_path / "checkpoints")
    assert state is not None
    assert state["iteration"] == when - 1
    assert_same(state["generator"], snapshot(sound[0]))


@pytest.mark.parametrize("iterations", [2, 4])
def test_weights_that_are_not_finite_are_divergence(tmp_path: Path, iterations: int) -> None:
    """Spoilt by the last update of iteration 2, whether or not anything is computed with them after that."""
    trained = trainer(tmp_path, iterations=iterations, log_every=0, probe_every=0, sample_every=0)

    def spoil(*_: Any) -> None:
        if trained.iteration == 1:
            trained.generator.get_parameter("4.weight").data[0] = math.inf

    trained.g_optimizer.register_step_post_hook(spoil)
    with pytest.raises(Diverged) as diverged:
        trained.train()
    found = diverged.value
    assert (found.iteration, found.quantity) == (2, "weight of the generator's 4.weight")
    assert found.layer == "generator.4"


def test_divergence_can_be_watched_instead(tmp_path: Path) -> None:
    trained, sink = run_through(tmp_path, lr=0.5, max_score=1.0, stop_on_divergence=False)
    assert trained.iteration == 8
    assert len(sink.rows) == 8


def test_a_sound_run_is_not_called_diverged(tmp_path: Path) -> None:
    generator, discriminator = toys()
    rows = plain_loop(generator, discriminator, 8, torch.optim.Adam, 1e-2)
    largest = max(abs(value) for row in rows for name, value in row.items() if name != "iteration")
    run_through(tmp_path / "within", max_score=largest, evaluate_every=0)
    with pytest.raises(Diverged):
        run_through(tmp_path / "beyond", max_score=0.99 * largest, evaluate_every=0)


# --- compiled passes


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_compiled_passes_are_the_plain_ones_and_as_exact_in_a_resumed_run(tmp_path: Path) -> None:
    torch.compiler.reset()
    compiled = Execution(compile=True)

    def trained(name: str, iterations: int, execution: Execution = compiled, **schedule: Any) -> Trainer:
        folder = tmp_path / name
        ours = trainer(folder, None, toys(norms.SigmaBidirectional), execution=execution, lr=1e-3,
                       iterations=iterations, evaluate_every=0, **schedule)  # fmt: skip
        if state := checkpoint.load_newest(folder / "checkpoints"):
            ours.load_checkpoint(state)
        ours.train()
        return ours

    plain = trained("plain", 4, IN_FULL_PRECISION)
    whole = trained("whole", 4, probe_every=0)
    probed = trained("probed", 4, probe_every=1)
    trained("halves", 2)
    resumed = trained("halves", 4)
    assert_same(weights(whole), weights(probed))
    assert_same(weights(whole), weights(resumed))
    for name, ours in weights(whole).items():
        if not name.endswith((".u", ".v")):  # the signs of singular vectors are free
            torch.testing.assert_close(ours, weights(plain)[name], rtol=1e-4, atol=1e-4)
    torch.compiler.reset()
