"""The loop: what is recorded and when, and its promise that a run in parts is the run in one."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SEED, Judge, Recording, Training, differing, plain_loop, snapshot, toy_gan, toys, weights

from gan_lab import norms
from gan_lab.data import Batches
from gan_lab.images import write_grid
from gan_lab.training import loop
from gan_lab.training.divergence import Diverged
from gan_lab.training.forward import IN_FULL_PRECISION, Execution
from gan_lab.training.gan import Gan, Measure
from gan_lab.training.loop import Due, Interrupted, Intervals

# --- what is recorded


def test_rows_have_the_names_that_tools_rely_on(tmp_path: Path) -> None:
    everything = Recording()
    training = Training(tmp_path, toy_gan(toys(norms.SigmaBidirectional)), [everything], iterations=6)
    training.train()
    first, second, third = everything.rows[:3]
    always = {"iteration", "loss/d", "loss/d_real", "loss/d_fake", "loss/g", "score/real", "score/fake"}
    always |= {"speed/images_per_s", "speed/step_ms", "memory/peak_mb"}
    assert first.keys() == always
    assert third.keys() == always | {"metric/mean"}
    measured = {f"slope/{kind}_{part}" for kind in ("real", "fake") for part in ("mean", "min", "max")}
    measured |= {"grad_norm/d", "grad_norm/g", "grad_norm/g/0", "grad_norm/g/4"}
    layers = ("sigma", "sigma_out", "sigma_in", "grad_norm/d", "weight_var")
    measured |= {f"{name}/{layer}" for name in layers for layer in ("0", "3")}
    assert second.keys() >= always | measured
    assert all(math.isfinite(value) for row in everything.rows for value in row.values())
    assert all(row["speed/images_per_s"] > 0 and row["memory/peak_mb"] > 0 for row in everything.rows)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_weights_and_rows_are_those_of_a_plain_loop(tmp_path: Path, optimizer: Any) -> None:
    """Bit for bit, in the record and in what trackers are told."""
    tracker = Recording()
    training = Training(tmp_path, toy_gan(optimizer=optimizer), [tracker]).train()
    generator, discriminator = toys()
    rows = plain_loop(generator, discriminator, 8, optimizer, 1e-2)
    assert differing(weights(training.gan), weights(toy_gan((generator, discriminator)))) == []
    for recorded in (training.rows, tracker.rows):
        assert [{name: row[name] for name in rows[0]} for row in recorded] == rows


def test_samples_are_of_the_generator_as_it_stands(tmp_path: Path) -> None:
    training = Training(tmp_path / "run", toy_gan(), iterations=5).train()
    grids = training.grids
    assert list(grids) == [2, 4, 5]  # and at the end
    assert len(set(grids.values())) == 3
    # In batches of ten, as images of one batch in eval mode may differ from those of another in rounding.
    rows = [training.gan.sample(start, start + 10, "samples") for start in range(0, 100, 10)]
    assert write_grid(tmp_path / "grid.png", torch.cat(rows)).read_bytes() == grids[5]


def test_metrics_are_taken_at_their_interval_and_at_the_end(tmp_path: Path) -> None:
    training = Training(tmp_path, toy_gan(), iterations=7, log_every=2, probe_every=0).train()
    assert [row["iteration"] for row in training.rows] == [2, 3, 4, 6, 7]
    assert [row["iteration"] for row in training.rows if "metric/mean" in row] == [3, 6, 7]


def test_each_evaluator_judges_at_its_own_interval_and_all_at_the_end(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Counting(Judge):
        name: str

        def evaluate(self, generate: Callable[..., Any]) -> dict[str, float]:
            return {f"metric/{self.name}": generate(0, 2).float().mean().item()}

    judges = [Counting(2, "often"), Counting(5, "rarely"), Counting(0, "at the end")]
    options = {"log_every": 3, "probe_every": 0, "sample_every": 0, "checkpoint_every": 0}
    rows = Training(tmp_path, toy_gan(), evaluators=judges, iterations=7, **options).train().rows
    judged = {
        judge.name: [row["iteration"] for row in rows if f"metric/{judge.name}" in row] for judge in judges
    }
    assert judged == {"often": [2, 4, 6, 7], "rarely": [5, 7], "at the end": [7]}
    assert [row["iteration"] for row in rows] == [2, 3, 4, 5, 6, 7]
    assert [row["iteration"] for row in rows if "loss/d" in row] == [3, 6]


def test_what_is_due() -> None:
    intervals = Intervals(10, log_every=4, probe_every=3, audit_every=6, sample_every=0, checkpoint_every=5)
    nothing = Due(Measure.NOTHING, log=False, samples=False, checkpoint=False, is_last=False)
    expected = {
        1: nothing,
        3: dataclasses.replace(nothing, measure=Measure.PROBES, log=True),
        4: dataclasses.replace(nothing, log=True),
        5: dataclasses.replace(nothing, checkpoint=True),
        6: dataclasses.replace(nothing, measure=Measure.AUDIT, log=True),
        10: dataclasses.replace(nothing, samples=True, checkpoint=True, is_last=True),
    }
    assert {iteration: intervals.due(iteration) for iteration in expected} == expected


def test_the_loop_is_read_on_one_screen_or_two() -> None:
    assert len(inspect.getsource(loop.train).splitlines()) <= 100


# --- exactness

Estimator = Callable[..., Any] | None
EVERY_NORM = pytest.mark.parametrize("estimator", [None, norms.SigmaBidirectional])


def run_through(folder: Path, estimator: Estimator = None, seed: int = SEED, **options: Any) -> Training:
    return Training(folder, toy_gan(toys(estimator), seed=seed), **options).train()


def test_two_runs_are_the_same_bit_for_bit_and_another_seed_is_another_run(tmp_path: Path) -> None:
    one = run_through(tmp_path / "1")
    torch.rand(5)  # the global stream does not matter
    two = run_through(tmp_path / "2")
    assert differing(weights(one.gan), weights(two.gan)) == []
    assert (one.rows, one.grids) == (two.rows, two.grids)
    other = run_through(tmp_path / "3", seed=SEED + 1)
    assert other.rows[0] != one.rows[0]
    assert not torch.equal(other.gan.generator[0].weight, one.gan.generator[0].weight)


@EVERY_NORM
def test_looking_does_not_change_the_training(tmp_path: Path, estimator: Estimator) -> None:
    """Logging, probes, audits, samples, metrics and checkpoints, at every iteration and never."""
    names = [f"{name}_every" for name in ("log", "probe", "audit", "sample", "checkpoint")]
    often = run_through(tmp_path / "often", estimator, evaluators=[Judge(1)], **dict.fromkeys(names, 1))
    rarely = run_through(tmp_path / "rarely", estimator, evaluators=[Judge(0)], **dict.fromkeys(names, 0))
    assert differing(weights(often.gan), weights(rarely.gan)) == []


def resume(folder: Path, estimator: Estimator = None, **options: Any) -> Training:
    """New objects, the newest checkpoint, and the record as long as it was then."""
    networks = toys(estimator)
    with torch.no_grad():  # everything must come from the checkpoint
        for parameter in (*networks[0].parameters(), *networks[1].parameters()):
            parameter.add_(1)
    return Training(folder, toy_gan(networks), **options).train()


def assert_same_run(one: Training, other: Training) -> None:
    """Weights, optimizers, record and samples."""
    assert differing(one.gan.state_dict(), other.gan.state_dict()) == []
    assert (one.rows, one.grids) == (other.rows, other.grids)


@EVERY_NORM
@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path, estimator: Estimator, length: int) -> None:
    """The first part ends by a signal; of the second's objects nothing but the checkpoint is the first's."""
    whole = run_through(tmp_path / "whole", estimator)
    gan = toy_gan(toys(estimator))
    first = Training(
        tmp_path / "parts", gan, stop_requested=lambda: "SIGTERM" if gan.iteration == length else None
    )
    with pytest.raises(Interrupted, match=f"SIGTERM .*iteration {length}"):
        first.train()
    assert_same_run(resume(tmp_path / "parts", estimator), whole)


@EVERY_NORM
def test_a_run_that_is_cut_off_goes_on_from_its_checkpoint(tmp_path: Path, estimator: Estimator) -> None:
    """No signal, no goodbye: what came after the last checkpoint is done again, and counts once."""
    whole = run_through(tmp_path / "whole", estimator)

    class Cut(Recording):
        def log(self, iteration: int, values: Mapping[str, float]) -> None:
            if iteration == 7:
                raise KeyboardInterrupt

    first = Training(tmp_path / "parts", toy_gan(toys(estimator)), [Cut()], checkpoint_every=5)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert [row["iteration"] for row in first.rows] == [1, 2, 3, 4, 5, 6, 7]
    second = resume(tmp_path / "parts", estimator, checkpoint_every=5)
    assert_same_run(second, whole)


def cut_short_in_the_metrics(folder: Path, iteration: int, **options: Any) -> Training:
    """Stopped before the third batch of images that are judged after this iteration."""
    gan, answers = toy_gan(), iter([None, None, "SIGUSR1"])  # before each batch of images

    def stop_requested() -> str | None:
        return next(answers) if gan.iteration == iteration else None

    first = Training(folder, gan, stop_requested=stop_requested, **options)
    with pytest.raises(Interrupted, match=f"SIGUSR1 in the metrics of iteration {iteration}"):
        first.train()
    return first


def test_a_request_to_stop_does_not_wait_for_the_metrics(tmp_path: Path) -> None:
    """The metrics of iteration 3 are cut short, and taken when the run goes on: no row is lost or doubled."""
    whole = run_through(tmp_path / "whole")
    first = cut_short_in_the_metrics(tmp_path / "parts", 3)
    assert [row["iteration"] for row in first.rows] == [1, 2]
    assert_same_run(resume(tmp_path / "parts"), whole)


def test_metrics_that_are_cut_short_twice_or_at_the_end_are_taken_once(tmp_path: Path) -> None:
    whole = run_through(tmp_path / "whole", iterations=6)
    cut_short_in_the_metrics(tmp_path / "parts", 3, iterations=6)
    again = Training(tmp_path / "parts", toy_gan(), iterations=6, stop_requested=lambda: "SIGINT")
    with pytest.raises(Interrupted, match="SIGINT in the metrics of iteration 3"):
        again.train()
    cut_short_in_the_metrics(tmp_path / "parts", 6, iterations=6)
    assert_same_run(resume(tmp_path / "parts", iterations=6), whole)


def test_a_row_that_waits_for_metrics_is_recorded_whatever_is_asked_for_later(tmp_path: Path) -> None:
    """Metrics and the interval of the log are no part of a run's identity."""
    cut_short_in_the_metrics(tmp_path, 3)
    resumed = resume(tmp_path, evaluators=(), log_every=4, probe_every=0)
    assert [row["iteration"] for row in resumed.rows] == [1, 2, 3, 4, 8]


def test_a_longer_schedule_continues_a_finished_run(tmp_path: Path) -> None:
    run_through(tmp_path / "parts", iterations=4)
    longer = resume(tmp_path / "parts", iterations=8)
    whole = run_through(tmp_path / "whole", iterations=8)
    assert differing(weights(longer.gan), weights(whole.gan)) == []


def test_a_finished_run_trains_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = run_through(tmp_path, iterations=4)
    monkeypatch.setattr(Batches, "read", lambda *_: pytest.fail("it draws"))
    assert_same_run(resume(tmp_path, iterations=4), finished)


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

    intervals = {"log_every": 8, "checkpoint_every": 8, "probe_every": 0, "sample_every": 0}
    training = Training(tmp_path, toy_gan(lr=0.5), evaluators=(), max_score=bound, **intervals)
    with pytest.raises(Diverged) as diverged:
        training.train()
    assert (diverged.value.iteration, diverged.value.quantity) == (when, quantity)
    assert f"{quantity} is {first[quantity]:g} at iteration {when}" in str(diverged.value)

    sound = toys()
    plain_loop(*sound, when - 1, torch.optim.Adam, 0.5)
    assert training.gan.iteration == when - 1
    assert differing(weights(training.gan), weights(toy_gan(sound))) == []
    assert training.checkpoint["iteration"] == when - 1
    assert differing(training.checkpoint["generator"], snapshot(sound[0])) == []


@pytest.mark.parametrize("iterations", [2, 4])
def test_weights_that_are_not_finite_are_divergence(tmp_path: Path, iterations: int) -> None:
    """Spoilt by the last update of iteration 2, whether or not anything is computed with them after that."""
    gan = toy_gan()
    training = Training(tmp_path, gan, iterations=iterations, log_every=0, probe_every=0, sample_every=0)

    def spoil(*_: Any) -> None:
        if gan.iteration == 1:
            gan.generator.get_parameter("4.weight").data[0] = math.inf

    gan.g_optimizer.register_step_post_hook(spoil)
    with pytest.raises(Diverged) as diverged:
        training.train()
    found = diverged.value
    assert (found.iteration, found.quantity) == (2, "weight of the generator's 4.weight")
    assert found.layer == "generator.4"


def test_divergence_can_be_watched_instead(tmp_path: Path) -> None:
    training = Training(tmp_path, toy_gan(lr=0.5), max_score=1.0, stop_on_divergence=False).train()
    assert training.gan.iteration == 8
    assert len(training.rows) == 8
    assert training.monitor.diverged_by


def test_a_sound_run_is_not_called_diverged(tmp_path: Path) -> None:
    generator, discriminator = toys()
    rows = plain_loop(generator, discriminator, 8, torch.optim.Adam, 1e-2)
    largest = max(abs(value) for row in rows for name, value in row.items() if name != "iteration")
    run_through(tmp_path / "within", max_score=largest)
    with pytest.raises(Diverged):
        run_through(tmp_path / "beyond", max_score=0.99 * largest)


# --- compiled passes


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_compiled_passes_are_the_plain_ones_and_as_exact_in_a_resumed_run(tmp_path: Path) -> None:
    torch.compiler.reset()
    compiled = Execution(compile=True)

    def trained(name: str, iterations: int, execution: Execution = compiled, **intervals: int) -> Gan:
        gan = toy_gan(toys(norms.SigmaBidirectional), execution=execution, lr=1e-3)
        Training(tmp_path / name, gan, evaluators=(), iterations=iterations, **intervals).train()
        return gan

    plain = trained("plain", 4, IN_FULL_PRECISION)
    whole = trained("whole", 4, probe_every=0)
    probed = trained("probed", 4, probe_every=1)
    trained("halves", 2)
    resumed = trained("halves", 4)
    assert differing(weights(whole), weights(probed)) == []
    assert differing(weights(whole), weights(resumed)) == []
    for name, ours in weights(whole).items():
        if not name.endswith((".u", ".v")):  # the signs of singular vectors are free
            torch.testing.assert_close(ours, weights(plain)[name], rtol=1e-4, atol=1e-4)
    torch.compiler.reset()
