"""An iteration as a graph: eager's bits in every setting, and what happens where there can be none.

The graphs are recorded and repeated on a CPU: that a GPU's libraries let their calls be captured, they cannot
show.
"""

import contextlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recording import CpuGraphs
from test_forward import CPU, built
from torch import Tensor, nn

from benchmarks.operations import Operations
from gan_lab import build, norms
from gan_lab.config import compose, load
from gan_lab.errors import UserError
from gan_lab.run import run
from gan_lab.training.divergence import DivergenceMonitor
from gan_lab.training.gan import Gan, Measure
from gan_lab.training.graph import CHECKS, WARM_UP, GraphedUpdate
from gan_lab.training.memory import make_capturable, tensors_of

ROOT = Path(__file__).resolve().parent.parent.parent
NORMS = sorted(path.stem for path in (ROOT / "configs" / "norm").glob("*.yaml"))
CHOICES = [
    *([f"norm={name}"] for name in NORMS),
    *([f"norm={name}", "train.precision=bf16"] for name in ("none", "bssn", "gradient_normalization")),
    ["norm=bssn", "norm.gamma=per_layer", "norm.target=both", "train.ema=0.9"],
    ["norm=strict_sn", "optimizer=adam_ndis5", "train.ema=0.9"],
    ["norm=sn", "loss=wgan_gp"],
    ["norm=sn", "penalty=r1", "penalty.every=2", "augment=diffaugment"],
    ["norm=layer_norm", "penalty=dragan"],
    ["norm=sn", "loss=relativistic", "penalty=r1_r2"],
    ["norm=sn", "penalty=orthogonal"],
    ["norm=ssn", "arch=resnet", "arch.width=0.01"],
    ["norm=bsn", "optimizer.tensorflow_epsilon=true", "train.bn_in_d_updates=false"],
    ["norm=bssn", "norm.power_iteration=plain", "norm.target=both", "optimizer.reuse_latents=true"],
]
UNGRAPHED = WARM_UP + 1  # iterations before the first that a graph repeats


def graphed(overrides: list[str], **options: Any) -> tuple[Gan, GraphedUpdate, CpuGraphs]:
    gan, graphs = built(overrides), CpuGraphs()
    return gan, GraphedUpdate(gan, DivergenceMonitor(gan, 1e6).see, graphs, **options), graphs


class NextToAPass:
    """In place of a SideStream: what is done in its block, and whether autograd would go back through it."""

    def __init__(self) -> None:
        self.operations: list[str] = []

    @contextlib.contextmanager
    def fork(self) -> Iterator[None]:
        def refuse(saved: Tensor) -> Tensor:
            raise AssertionError("autograd would go back on the side stream, into memory that is used again")

        with Operations() as operations, torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
            yield
        self.operations += operations.seen

    def join(self) -> None:
        pass


@pytest.mark.parametrize("name", NORMS)
def test_what_is_done_next_to_a_pass_of_the_generator_needs_no_gradient(name: str, tiny: list[str]) -> None:
    gan = built([*tiny, f"norm={name}"])
    gan._side_stream = beside = NextToAPass()  # type: ignore[assignment]
    gan.update(gan.draw(1))
    iterates = any(
        norm.estimator.singular_values() for _, _, norm in norms.normalized_tensors(gan.discriminator)
    )
    assert beside.operations or not iterates


def numbers(gan: Gan) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors_of(gan.state_dict())]


def train_both(
    eager: Gan, gan: Gan, update: GraphedUpdate, iterations: int, probes: int = 0
) -> list[list[str]]:
    """Losses, scores and states of both are the same in every bit, after each iteration.

    Returns the operations of eager's.
    """
    seen = []
    for _ in range(iterations):
        iteration = gan.iteration + 1
        measure = Measure.PROBES if probes and iteration % probes == 0 else Measure.NOTHING
        inputs = eager.draw(iteration)
        with Operations() as operations:
            expected = eager.update(inputs, measure)
        seen.append(operations.seen)
        values = update(gan.draw(iteration), measure)
        assert {name: value.item() for name, value in values.items()} == {
            name: value.item() for name, value in expected.items()
        }
        for one, other in zip(numbers(gan), numbers(eager), strict=True):
            assert torch.equal(one, other)
        assert gan.iteration == eager.iteration == iteration
    return seen


@pytest.mark.parametrize("choices", CHOICES, ids=" ".join)
def test_a_graph_leaves_the_bits_of_the_operations_one_by_one(tiny: list[str], choices: list[str]) -> None:
    """Also where iterations of two kinds take turns (a penalty that is paid in every other one).

    Two of a kind are the same operations, with the same sizes, strides and numbers: one recorded is all.
    """
    gan, update, graphs = graphed([*tiny, *choices])
    kinds = 2 if "penalty.every=2" in choices else 1
    seen = train_both(built([*tiny, *choices]), gan, update, WARM_UP + kinds * (CHECKS + 1))
    assert seen[-1] == seen[-1 - kinds]
    assert update.refusal == ""
    assert len(graphs.recorded) == kinds
    assert graphs.repeated == kinds * CHECKS


def test_what_measures_is_computed_on_the_same_memory(tiny: list[str]) -> None:
    """Iterations with probes between graphs: they read what graphs left, and graphs what they left."""
    overrides = [*tiny, "norm=bssn", "norm.gamma=shared", "train.ema=0.9"]
    gan, update, graphs = graphed(overrides)
    train_both(built(overrides), gan, update, 12, probes=3)
    assert len(graphs.recorded) == 1
    assert graphs.repeated == 12 - 12 // 3 - UNGRAPHED


def test_a_state_that_is_loaded_is_recorded_anew(tiny: list[str]) -> None:
    overrides = [*tiny, "norm=sn"]
    eager = built(overrides)
    for _ in range(7):
        eager.update(eager.draw(eager.iteration + 1))
    gan, update, graphs = graphed(overrides)
    for _ in range(UNGRAPHED + 1):
        update(gan.draw(gan.iteration + 1))
    gan.load_state_dict(eager.state_dict())
    train_both(eager, gan, update, WARM_UP + CHECKS + 1)
    assert len(graphs.recorded) == 2


def decaying(tiny: list[str], capturable: bool) -> tuple[Gan, Gan]:
    """Two Gans whose learning rates decay, tensors if capturable as on a GPU."""
    overrides = [*tiny, "norm=sn", "optimizer.decay=linear", "train.iterations=10"]
    gans = []
    for _ in range(2):
        gan = built(overrides)
        if capturable:
            for name, optimizer in (("g_decay", gan.g_optimizer), ("d_decay", gan.d_optimizer)):
                make_capturable(optimizer, decays=True)
                for group in optimizer.param_groups:
                    group["capturable"] = False  # which a CPU refuses
                (function,) = gan.lr_schedulers[name].lr_lambdas
                gan.lr_schedulers[name] = torch.optim.lr_scheduler.LambdaLR(optimizer, function)
        gans.append(gan)
    return gans[0], gans[1]


def test_learning_rates_that_decay_are_read_from_memory(tiny: list[str]) -> None:
    eager, gan = decaying(tiny, capturable=True)
    update = GraphedUpdate(gan, lambda values: None, graphs := CpuGraphs())
    train_both(eager, gan, update, 9)
    assert graphs.repeated == 9 - UNGRAPHED
    for group in gan.g_optimizer.param_groups:
        assert group["lr"].item() == pytest.approx(float(group["initial_lr"]) / 10)


def test_a_graph_with_other_bits_is_noticed_and_not_used(
    tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Learning rates that are numbers stay in a graph what they were: training goes on without it."""
    eager, gan = decaying(tiny, capturable=False)
    update = GraphedUpdate(gan, lambda values: None, graphs := CpuGraphs())
    with caplog.at_level(logging.WARNING):
        train_both(eager, gan, update, 8)
    assert graphs.repeated == 1
    assert "other bits" in update.refusal
    assert "operation by operation, not as graphs: its graph leaves other bits" in caplog.text


class Refusing(CpuGraphs):
    """As CUDA where a library's call cannot be captured: in the midst of an iteration."""

    def record(self, work: Any) -> Any:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.mark.parametrize("required", [False, True])
def test_what_cannot_be_recorded_is_computed_as_before(
    tiny: list[str], caplog: pytest.LogCaptureFixture, required: bool
) -> None:
    overrides = [*tiny, "norm=bssn"]
    gan, eager = built(overrides), built(overrides)
    update = GraphedUpdate(gan, lambda values: None, Refusing(), required)
    train_both(eager, gan, update, WARM_UP)
    if required:
        with pytest.raises(UserError, match=r"when stream is capturing.*take train\.cuda_graphs=auto"):
            train_both(eager, gan, update, 1)
        return
    train_both(eager, gan, update, 3)
    assert "not as graphs: operation not permitted when stream is capturing and more" in caplog.text


def test_an_error_in_the_generators_step_leaves_the_discriminator_trainable(tiny: list[str]) -> None:
    """As a capture that is refused there does."""
    gan = built([*tiny, "norm=sn"])

    def fail(*_: object) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError("in G's pass")

    gan.generator.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in G's pass"):
        gan.update(gan.draw(1))
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())


def test_graphs_are_refused_where_there_is_no_gpu(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(compose([*tiny, "train.cuda_graphs=true"])).exit_status == 2
    assert "device=cpu has none" in capsys.readouterr().err


def test_graphs_are_no_part_of_what_a_run_is(tiny: list[str]) -> None:
    ids = {
        load(compose([*tiny, f"train.cuda_graphs={choice}"])).run_id for choice in ("auto", "true", "false")
    }
    assert len(ids) == 1


def test_on_a_cpu_a_run_has_no_graphs(tiny: list[str]) -> None:
    config = load(compose(tiny))
    gan = build.build_gan(config, build.load_images(config), CPU)
    assert build.build_graphed(config, gan, build.build_monitor(config, gan)) is None


def test_a_dropout_is_seen_to_be_no_graph(tiny: list[str]) -> None:
    """What draws in an iteration draws other numbers when it is repeated."""
    gan, update, _ = graphed([*tiny, "norm=none"])
    gan.discriminator.lrelu0 = nn.Sequential(nn.LeakyReLU(0.1), nn.Dropout(0.5))
    for iteration in itertools.takewhile(lambda one: not update.refusal, range(1, 10)):
        update(gan.draw(iteration))
    assert "other bits" in update.refusal
