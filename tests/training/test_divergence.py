"""Divergence: noticed, traced to its first iteration and layer, and left with a sound checkpoint."""

import math
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_lab.config import compose, resolved, run_directory
from gan_lab.data import Batches
from gan_lab.losses import Hinge, Wasserstein
from gan_lab.run import run
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RunDirectory
from gan_lab.training import Diverged, Schedule, Trainer
from gan_lab.training.divergence import Watch, is_finite, problem

PIXELS, LATENT, HIDDEN = 4, 3, 6


def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(LATENT, 3 * PIXELS**2), nn.Tanh(), nn.Unflatten(1, (3, PIXELS, PIXELS)))


def discriminator() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * PIXELS**2, HIDDEN),
        nn.LeakyReLU(0.1),
        nn.Linear(HIDDEN, HIDDEN),
        nn.LeakyReLU(0.1),
        nn.Linear(HIDDEN, 1),
        nn.Flatten(0),
    )


class Rows:
    """A sink that keeps the rows."""

    def __init__(self) -> None:
        self.rows: dict[int, Mapping[str, float]] = {}

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.rows[iteration] = values

    def log_samples(self, iteration: int, grid: Path) -> None:
        pass


def trainer(
    folder: Path, sgd: float | None = None, loss: Any = None, n_dis: int = 1, **schedule: Any
) -> Trainer:
    """A trainer of the networks above; it looks at the weights every ten iterations."""
    torch.manual_seed(0)
    networks = generator(), discriminator()
    images = np.random.default_rng(0).integers(0, 256, (32, 3, PIXELS, PIXELS), np.uint8)

    def optimizer(network: nn.Module) -> torch.optim.Optimizer:
        if sgd is None:
            return torch.optim.Adam(network.parameters(), 1e-3)
        return torch.optim.SGD(network.parameters(), sgd)

    plan = {
        "iterations": 40,
        "log_every": 10,
        "probe_every": 0,
        "audit_every": 0,
        "sample_every": 0,
        "evaluate_every": 0,
        "checkpoint_every": 1000,
        "keep_every": 1000,
        "max_score": 1e6,
        "stop_on_divergence": True,
    }
    return Trainer(
        generator=networks[0],
        discriminator=networks[1],
        loss=loss or Hinge(),
        penalty=None,
        g_optimizer=optimizer(networks[0]),
        d_optimizer=optimizer(networks[1]),
        decays={},
        ema=None,
        batches=Batches(images, 8, 0, torch.device("cpu")),
        g_batch_size=8,
        latent_dim=LATENT,
        seed=0,
        schedule=Schedule(n_dis=n_dis, **{**plan, **schedule}),
        sink=Rows(),
        evaluate=None,
        samples=folder / "samples",
        checkpoints=folder / "checkpoints",
        record_length=lambda: 0,
        stop_requested=lambda: None,
    )


def train_to(folder: Path, iteration: int, **options: Any) -> dict[str, Any]:
    """The state of an undisturbed trainer after so many iterations."""
    undisturbed = trainer(folder, **options)
    for number in range(1, iteration + 1):
        undisturbed.iterate(number)
    return {name: part.state_dict() for name, part in undisturbed._parts().items()}


def assert_same(ours: Any, theirs: Any) -> None:
    """Bit for bit."""
    if isinstance(ours, Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, Mapping):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    else:
        assert ours == theirs


def assert_saved_before(diverged: Diverged, folder: Path, undisturbed: Mapping[str, Any]) -> None:
    """The newest checkpoint is the undisturbed state of the iteration before the bad one, and it is sound."""
    saved = checkpoint.load_newest(folder / "checkpoints")
    assert saved is not None
    assert saved["iteration"] == diverged.iteration - 1
    for name, part in undisturbed.items():
        assert_same(saved[name], part)
    for network in ("generator", "discriminator"):
        assert all(tensor.isfinite().all() for tensor in saved[network].values())


def spoil(target: Trainer, bad: int, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call `before` and `after` around the discriminator's update of iteration `bad`, whenever it is run."""
    step = target.discriminator_step

    def spoilt(iteration: int, *arguments: Any, **named: Any) -> dict[str, Tensor]:
        if iteration != bad:
            return step(iteration, *arguments, **named)
        before()
        try:
            return step(iteration, *arguments, **named)
        finally:
            after()

    target.discriminator_step = spoilt  # type: ignore[method-assign]


def linear(network: nn.Module, index: int) -> nn.Linear:
    layer = [module for module in network.modules() if isinstance(module, nn.Linear)][index]
    assert isinstance(layer, nn.Linear)
    return layer


def name_of(network: nn.Module, layer: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if module is layer)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("bad", [1, 7, 10, 23])
def test_an_overflow_in_a_chosen_layer_is_traced_to_it_and_to_its_iteration(
    index: int, bad: int, tmp_path: Path
) -> None:
    """That one layer's bias is out of range during one update: nothing before it in a pass is affected."""
    run = trainer(tmp_path)
    layer = linear(run.discriminator, index)
    sound: list[Tensor] = []

    def break_it() -> None:
        sound[:] = [layer.bias.detach().clone()]
        layer.bias.data.fill_(math.inf)

    def mend_it() -> None:
        layer.bias.data.copy_(sound[0])

    spoil(run, bad, break_it, mend_it)
    with pytest.raises(Diverged) as caught:
        run.train()
    diverged = caught.value
    assert diverged.iteration == bad
    assert diverged.layer == f"discriminator.{name_of(run.discriminator, layer)}"
    assert diverged.quantity == "loss/d"
    assert f"at iteration {bad}" in str(diverged)
    assert f"it began in {diverged.layer}" in str(diverged)
    assert_saved_before(diverged, tmp_path, train_to(tmp_path / "undisturbed", bad - 1))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layer_that_stretches_beyond_the_bound_is_the_one_that_is_named(index: int, tmp_path: Path) -> None:
    """All stays finite: the layer whose weights are large is the one that makes the scores large."""
    run = trainer(tmp_path, max_score=100.0)
    layer = linear(run.discriminator, index)
    layer.weight.data.mul_(3e4)
    layer.weight.data.add_(1e3)
    with pytest.raises(Diverged) as caught:
        run.train()
    assert caught.value.layer == f"discriminator.{name_of(run.discriminator, layer)}"
    assert caught.value.iteration == 1
    assert "beyond train.max_score=100" in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("side", "index"), [("discriminator", 0), ("discriminator", 2), ("generator", 0)])
def test_a_bad_gradient_is_traced_though_it_is_looked_for_later(
    side: str, index: int, value: float, tmp_path: Path
) -> None:
    bad = 14  # weights are looked at after 10 and after 20
    run = trainer(tmp_path)
    network = getattr(run, side)
    layer = linear(network, index)
    layer.weight.register_hook(
        lambda gradient: torch.full_like(gradient, value) if run.iteration == bad - 1 else gradient
    )
    with pytest.raises(Diverged) as caught:
        run.train()
    diverged = caught.value
    assert diverged.iteration == bad
    assert diverged.layer == f"{side}.{name_of(network, layer)}"
    assert diverged.quantity == f"gradient of the {side}'s {name_of(network, layer)}.weight"
    assert_saved_before(diverged, tmp_path, train_to(tmp_path / "undisturbed", bad - 1))


@pytest.mark.parametrize(("n_dis", "rate"), [(1, 300.0), (3, 20.0)])
def test_an_absurd_learning_rate_ends_with_sound_weights(n_dis: int, rate: float, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sgd": rate, "loss": Wasserstein(), "n_dis": n_dis}
    run = trainer(tmp_path, max_score=1e30, **options)
    with pytest.raises(Diverged) as caught:
        run.train()
    assert 1 < caught.value.iteration <= 40
    assert caught.value.layer.startswith(("discriminator.", "generator."))
    assert_saved_before(
        caught.value, tmp_path, train_to(tmp_path / "undisturbed", caught.value.iteration - 1, **options)
    )


def test_what_is_measured_or_logged_in_between_does_not_move_the_checkpoint(tmp_path: Path) -> None:
    """Repeating the iterations measures nothing: the bits must be those of the ones that were measured."""
    options = {"sgd": 1e4, "loss": Wasserstein(), "max_score": 1e30}
    found = []
    for number, schedule in enumerate(
        ({"probe_every": 1}, {"log_every": 7}, {"log_every": 1, "probe_every": 3})
    ):
        with pytest.raises(Diverged) as caught:
            trainer(tmp_path / str(number), **options, **schedule).train()
        found.append((str(caught.value), checkpoint.load_newest(tmp_path / str(number) / "checkpoints")))
    for message, state in found[1:]:
        assert message == found[0][0]
        assert_same(state, found[0][1])


def test_audits_of_weights_that_are_not_numbers_do_not_fail(tmp_path: Path) -> None:
    run = trainer(tmp_path, audit_every=20)
    linear(run.discriminator, 1).weight.register_hook(
        lambda gradient: gradient * math.nan if run.iteration == 14 else gradient
    )
    with pytest.raises(Diverged) as caught:
        run.train()
    assert caught.value.iteration == 15


def test_going_on_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, stop_on_divergence=False, audit_every=20, probe_every=10)
    linear(run.discriminator, 1).weight.register_hook(
        lambda gradient: gradient * math.nan if run.iteration == 14 else gradient
    )
    run.train()
    assert run.iteration == 40
    assert run.bad_since == 20
    assert caplog.text.count("diverged by iteration 20") == 1
    assert isinstance(run.sink, Rows)
    assert math.isnan(run.sink.rows[40]["loss/d"])


def test_a_sound_run_is_left_alone(tmp_path: Path) -> None:
    run = trainer(tmp_path, n_dis=2)
    run.train()
    assert run.bad_since is None
    assert_same(
        {name: part.state_dict() for name, part in run._parts().items()},
        train_to(tmp_path / "undisturbed", 40, n_dis=2),
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e7, -1e7])
def test_the_watch_remembers_one_bad_value_among_good_ones(value: float) -> None:
    watch = Watch(1e6, torch.device("cpu"))
    network = nn.Linear(2, 2)
    watch.see({"loss/d": torch.tensor(1.0), "score/real": torch.tensor(-9e5)})
    assert watch.is_fine(network)
    watch.see({"loss/d": torch.tensor(1.0), "score/real": torch.tensor(value)})
    watch.see({"loss/d": torch.tensor(1.0), "score/real": torch.tensor(0.0)})
    assert not watch.is_fine(network)


def test_one_weight_that_is_no_number_is_noticed() -> None:
    networks = nn.Linear(30, 30), nn.Linear(3, 3)
    assert is_finite(*networks)
    for value in (math.nan, math.inf):
        networks[1].weight.data[1, 2] = value
        assert not is_finite(*networks)
        assert not Watch(1.0, torch.device("cpu")).is_fine(*networks)


def test_the_first_problem_is_the_cause_and_not_what_follows_from_it() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    for network in (first, second):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
    values = {"loss/d": torch.tensor(0.0), "loss/g": torch.tensor(0.0)}
    assert problem(values, first, second, 1.0) is None
    spoilt: list[tuple[Tensor, str]] = [
        (first.weight.data, "weight of the generator's weight"),
        (first.weight.grad, "gradient of the generator's weight"),
        (values["loss/g"], "loss/g"),
        (second.weight.data, "weight of the discriminator's weight"),
        (second.bias.grad, "gradient of the discriminator's bias"),
        (values["loss/d"], "loss/d"),
    ]
    for tensor, quantity in spoilt:  # each comes before the ones that were spoilt already
        tensor.fill_(math.nan)
        found = problem(values, first, second, 1.0)
        assert found is not None
        assert found[0] == quantity


def directory(overrides: list[str]) -> RunDirectory:
    return RunDirectory(run_directory(resolved(compose(overrides))))


ABSURD = ["norm=none", "optimizer.d_lr=1e9", "optimizer.g_lr=1e9", "loss=wasserstein"]


def test_a_run_that_diverges_says_so_and_is_not_run_again(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*tiny, *ABSURD, "probes.audit_every=2", "arch.width=0.03125"]
    assert run(compose(overrides)).exit_status == 3
    status = directory(overrides).read_status()
    assert status["state"] == "diverged"
    assert status["diverged_at"] == status["iteration"] + 1
    assert status["layer"].startswith("discriminator.")
    assert status["quantity"] in status["reason"]
    saved = checkpoint.load_newest(directory(overrides).checkpoints)
    assert saved is not None
    assert saved["iteration"] == status["iteration"]
    assert all(tensor.isfinite().all() for tensor in saved["discriminator"].values())
    capsys.readouterr()
    assert run(compose(overrides)).exit_status == 3
    assert status["reason"] in capsys.readouterr().out
    assert directory(overrides).read_status() == status


def test_going_on_all_the_same_to_metrics_and_to_the_end(tiny: list[str]) -> None:
    judged = ["metrics=digits", "metrics.num_generated=100", "metrics.kid=true", "metrics.prc=true"]
    overrides = [*tiny, *ABSURD, *judged, "metrics.kid_subset_size=20", "train.on_divergence=continue"]
    overrides += ["arch.width=0.03125", "train.iterations=12", "probes.audit_every=6"]
    assert run(compose(overrides)).exit_status == 0
    status = directory(overrides).read_status()
    assert status["state"] == "finished"
    assert "diverged by iteration 5" in status["reason"]


def test_in_a_sweep_the_other_runs_finish(
    tiny: list[str], train_py: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    overrides = [*tiny, "train.iterations=6", "loss=wasserstein", "arch.width=0.03125"]
    rates = ("1e-4", "1e9", "2e-4")
    done = train_py("-m", "norm=none", "optimizer.d_lr=" + ",".join(rates), *overrides)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    found = [
        directory([*overrides, "norm=none", f"optimizer.d_lr={rate}"]).read_status()["state"]
        for rate in rates
    ]
    assert found == ["finished", "diverged", "finished"]
