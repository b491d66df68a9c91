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
from toys import CPU, Recording, Training, differing

from gan_lab.config import compose, load
from gan_lab.data import Batches
from gan_lab.losses import Hinge, Wasserstein
from gan_lab.probes import is_finite
from gan_lab.run import run
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RunDirectory
from gan_lab.training.divergence import Diverged, DivergenceMonitor, first_bad_quantity
from gan_lab.training.gan import Gan, UpdateInputs

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


def made(sgd: float | None = None, loss: Any = None, n_dis: int = 1) -> Gan:
    """The networks above and what trains them."""
    torch.manual_seed(0)
    networks = generator(), discriminator()
    images = np.random.default_rng(0).integers(0, 256, (32, 3, PIXELS, PIXELS), np.uint8)

    def optimizer(network: nn.Module) -> torch.optim.Optimizer:
        if sgd is None:
            return torch.optim.Adam(network.parameters(), 1e-3)
        return torch.optim.SGD(network.parameters(), sgd)

    return Gan(
        generator=networks[0],
        discriminator=networks[1],
        loss=loss or Hinge(),
        g_optimizer=optimizer(networks[0]),
        d_optimizer=optimizer(networks[1]),
        batches=Batches(images, [8] * n_dis, 0, CPU),
        g_batch_size=8,
        latent_dim=LATENT,
        seed=0,
        n_dis=n_dis,
    )


def training(folder: Path, gan: Gan | None = None, **options: Any) -> Training:
    """It looks at the weights every ten iterations."""
    intervals = {"iterations": 40, "log_every": 10, "probe_every": 0, "sample_every": 0}
    return Training(
        folder, gan or made(), evaluators=(), **{"checkpoint_every": 1000, **intervals, **options}
    )


def train_to(iteration: int, **options: Any) -> dict[str, Any]:
    """The state of an undisturbed training after so many iterations."""
    undisturbed = made(**options)
    for number in range(1, iteration + 1):
        undisturbed.update(undisturbed.draw(number))
    return undisturbed.state_dict()


def assert_saved_before(diverged: Diverged, run: Training, undisturbed: Mapping[str, Any]) -> None:
    """The newest checkpoint is the undisturbed state of the iteration before the bad one, and it is sound."""
    saved = run.checkpoint
    assert saved["iteration"] == diverged.iteration - 1
    assert differing({name: saved[name] for name in undisturbed}, undisturbed) == []
    for network in ("generator", "discriminator"):
        assert all(tensor.isfinite().all() for tensor in saved[network].values())


def spoil(gan: Gan, bad: int, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call `before` and `after` around the discriminator's update of iteration `bad`, whenever it is run."""
    step = gan.discriminator_step

    def spoilt(inputs: UpdateInputs, *arguments: Any) -> dict[str, Tensor]:
        if gan.iteration + 1 != bad:
            return step(inputs, *arguments)
        before()
        try:
            return step(inputs, *arguments)
        finally:
            after()

    gan.discriminator_step = spoilt  # type: ignore[method-assign]


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
    gan = made()
    layer = linear(gan.discriminator, index)
    sound: list[Tensor] = []

    def break_it() -> None:
        sound[:] = [layer.bias.detach().clone()]
        layer.bias.data.fill_(math.inf)

    def mend_it() -> None:
        layer.bias.data.copy_(sound[0])

    spoil(gan, bad, break_it, mend_it)
    run = training(tmp_path, gan)
    with pytest.raises(Diverged) as caught:
        run.train()
    diverged = caught.value
    assert diverged.iteration == bad
    assert diverged.layer == f"discriminator.{name_of(gan.discriminator, layer)}"
    assert diverged.quantity == "loss/d"
    assert f"at iteration {bad}" in str(diverged)
    assert f"it began in {diverged.layer}" in str(diverged)
    assert_saved_before(diverged, run, train_to(bad - 1))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layer_that_stretches_beyond_the_bound_is_the_one_that_is_named(index: int, tmp_path: Path) -> None:
    """All stays finite: the layer whose weights are large is the one that makes the scores large."""
    gan = made()
    layer = linear(gan.discriminator, index)
    layer.weight.data.mul_(3e4)
    layer.weight.data.add_(1e3)
    with pytest.raises(Diverged) as caught:
        training(tmp_path, gan, max_score=100.0).train()
    assert caught.value.layer == f"discriminator.{name_of(gan.discriminator, layer)}"
    assert caught.value.iteration == 1
    assert "beyond train.max_score=100" in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("side", "index"), [("discriminator", 0), ("discriminator", 2), ("generator", 0)])
def test_a_bad_gradient_is_traced_though_it_is_looked_for_later(
    side: str, index: int, value: float, tmp_path: Path
) -> None:
    bad = 14  # weights are looked at after 10 and after 20
    gan = made()
    network = getattr(gan, side)
    layer = linear(network, index)
    layer.weight.register_hook(
        lambda gradient: torch.full_like(gradient, value) if gan.iteration == bad - 1 else gradient
    )
    run = training(tmp_path, gan)
    with pytest.raises(Diverged) as caught:
        run.train()
    diverged = caught.value
    assert diverged.iteration == bad
    assert diverged.layer == f"{side}.{name_of(network, layer)}"
    assert diverged.quantity == f"gradient of the {side}'s {name_of(network, layer)}.weight"
    assert_saved_before(diverged, run, train_to(bad - 1))


@pytest.mark.parametrize(("n_dis", "rate"), [(1, 300.0), (3, 20.0)])
def test_an_absurd_learning_rate_ends_with_sound_weights(n_dis: int, rate: float, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sgd": rate, "loss": Wasserstein(), "n_dis": n_dis}
    run = training(tmp_path, made(**options), max_score=1e30)
    with pytest.raises(Diverged) as caught:
        run.train()
    assert 1 < caught.value.iteration <= 40
    assert caught.value.layer.startswith(("discriminator.", "generator."))
    assert_saved_before(caught.value, run, train_to(caught.value.iteration - 1, **options))


def test_what_is_measured_or_logged_in_between_does_not_move_the_checkpoint(tmp_path: Path) -> None:
    """Repeating the iterations measures nothing: the bits must be those of the ones that were measured."""
    found = []
    for number, intervals in enumerate(
        ({"probe_every": 1}, {"log_every": 7}, {"log_every": 1, "probe_every": 3})
    ):
        gan = made(sgd=1e4, loss=Wasserstein())
        run = training(tmp_path / str(number), gan, max_score=1e30, **intervals)
        with pytest.raises(Diverged) as caught:
            run.train()
        state = {key: value for key, value in run.checkpoint.items() if key != "record_length"}
        found.append((str(caught.value), state))
    for message, state in found[1:]:
        assert message == found[0][0]
        assert differing(state, found[0][1]) == []


def test_audits_of_weights_that_are_not_numbers_do_not_fail(tmp_path: Path) -> None:
    gan = made()
    linear(gan.discriminator, 1).weight.register_hook(
        lambda gradient: gradient * math.nan if gan.iteration == 14 else gradient
    )
    with pytest.raises(Diverged) as caught:
        training(tmp_path, gan, audit_every=20).train()
    assert caught.value.iteration == 15


def test_going_on_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gan, seen = made(), Recording()
    linear(gan.discriminator, 1).weight.register_hook(
        lambda gradient: gradient * math.nan if gan.iteration == 14 else gradient
    )
    run = training(tmp_path, gan, trackers=[seen], stop_on_divergence=False, audit_every=20, probe_every=10)
    run.train()
    assert gan.iteration == 40
    assert run.monitor.diverged_by == 20
    assert caplog.text.count("diverged by iteration 20") == 1
    assert seen.rows[-1]["iteration"] == 40
    assert math.isnan(seen.rows[-1]["loss/d"])


def test_a_sound_run_is_left_alone(tmp_path: Path) -> None:
    run = training(tmp_path, made(n_dis=2)).train()
    assert run.monitor.diverged_by is None
    assert differing(run.gan.state_dict(), train_to(40, n_dis=2)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e7, -1e7])
def test_the_monitor_remembers_one_bad_value_among_good_ones(value: float) -> None:
    monitor = DivergenceMonitor(made(), 1e6)
    measured = {"grad_norm/d": torch.tensor(1e9)}  # has no bound
    monitor.see({"loss/d": torch.tensor(1.0), "score/real": torch.tensor(-9e5), **measured})
    assert monitor.is_healthy()
    monitor.see({"loss/d": torch.tensor(1.0), "score/real": torch.tensor(value)})
    monitor.see({"loss/d": torch.tensor(1.0), "score/real": torch.tensor(0.0)})
    assert not monitor.is_healthy()


def test_one_weight_that_is_no_number_is_noticed() -> None:
    networks = nn.Linear(30, 30), nn.Linear(3, 3)
    assert is_finite(*networks)
    for value in (math.nan, math.inf):
        networks[1].weight.data[1, 2] = value
        assert not is_finite(*networks)
        for side in ("generator", "discriminator"):
            gan = made()
            assert DivergenceMonitor(gan, 1.0).is_healthy()
            linear(getattr(gan, side), 0).weight.data[1, 2] = value
            assert not DivergenceMonitor(gan, 1.0).is_healthy()


def test_divergence_that_repeating_does_not_show_is_divergence_all_the_same(tmp_path: Path) -> None:
    """As of a device that fails: the state is the one that was computed soundly."""
    gan, flips = made(), iter([True])

    def flip(gradient: Tensor) -> Tensor:
        return gradient * math.nan if gan.iteration == 14 and next(flips, False) else gradient

    linear(gan.generator, 0).weight.register_hook(flip)
    run = training(tmp_path, gan)
    with pytest.raises(Diverged, match="not when repeated") as caught:
        run.train()
    assert caught.value.iteration == gan.iteration == 20
    assert differing(gan.state_dict(), train_to(20)) == []


def test_the_first_problem_is_the_cause_and_not_what_follows_from_it() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    for network in (first, second):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
    values = {"loss/d": torch.tensor(0.0), "loss/g": torch.tensor(0.0)}
    assert first_bad_quantity(values, first, second, 1.0) is None
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
        found = first_bad_quantity(values, first, second, 1.0)
        assert found is not None
        assert found[0] == quantity


def directory(overrides: list[str]) -> RunDirectory:
    return RunDirectory(load(compose(overrides)).run_directory)


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
    judged = ["metrics=digits", "metrics.digits.num_generated=100", "metrics.digits.kid_subset_size=20"]
    judged.append("metrics.digits.measure=[fid,is,kid,prc]")
    overrides = [*tiny, *ABSURD, *judged, "train.on_divergence=continue"]
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
