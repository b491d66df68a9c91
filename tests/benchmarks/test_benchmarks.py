"""Measurements at their smallest: what is timed is what it is called, and every row has its name."""

import contextlib
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from benchmarks import MEASUREMENTS, Measurement, measure, overhead, plain, steps, training
from benchmarks.gans import gan_for, iterate
from benchmarks.program import Program, floating_point_operations
from benchmarks.rows import Row
from gan_lab.device import allow_tf32

TINY = ("dataset=cifar10", "arch.width=0.0625", "norm=sn", "train.batch_size=2", "device=cpu")


Programs = Callable[[tuple[str, ...], Path], Program]


@pytest.fixture(autouse=True)
def _counted_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is read: no test measures this machine."""
    monkeypatch.setattr(time, "perf_counter", map(float, itertools.count()).__next__)


@pytest.fixture(autouse=True)
def _tf32_as_before() -> Iterator[None]:
    yield
    allow_tf32(True)


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Makes programs, and closes them."""
    with contextlib.ExitStack() as stack:
        yield lambda overrides, folder: stack.enter_context(contextlib.closing(Program(overrides, folder)))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference CNN shrunk, wherever a measurement takes it."""
    monkeypatch.setattr(steps, "CNN", TINY)
    monkeypatch.setattr(steps, "WIDTHS", (0.0625,))
    monkeypatch.setattr(steps, "SIZES", {32: TINY})
    monkeypatch.setattr(steps, "BATCHES", (2, 3))
    monkeypatch.setattr(training, "NETS", {"cnn32": training.Net(TINY, 1)})


def names(rows: list[Row]) -> set[str]:
    assert all(np.isfinite(row.value) for row in rows)
    return {row.name for row in rows}


def test_no_name_is_that_of_two_rows() -> None:
    every = [name for one in MEASUREMENTS for name in (*one.names, *one.gpu_names)]
    assert len(set(every)) == len(every)


def test_the_rows_that_were_promised() -> None:
    every = {name for measurement in MEASUREMENTS for name in measurement.names}
    nets, precisions = ("cnn32", "cnn48", "cnn64", "resnet32"), ("fp32", "bf16")
    assert every >= {f"mfu/{net}/{precision}" for net in nets for precision in precisions}
    assert every >= {f"ratio/norm/{name}" for name in ("sn", "ssn", "bsn", "bssn", "strict_sn")}
    assert every >= {f"ratio/plain_loop/{precision}" for precision in precisions}
    assert every >= {
        *("ratio/probes", "ratio/program", "ratio/data_path", "ratio/bf16", "ratio/prepare"),
        *("ratio/evaluation/identical", "ratio/evaluation/reduced"),
        *("time/first_step", "time/help", "time/checkpoint", "memory/peak"),
    }


def test_patterns_select_measurements_and_then_rows() -> None:
    def rows_of(*found: str) -> Measurement:
        return Measurement(found, lambda: iter([Row(name, 1.0, "s") for name in found]))

    both, rare = rows_of("a/x", "a/y"), Measurement(("b",), lambda: iter([]), by_default=False)
    on_gpu = Measurement((), lambda: iter([]), gpu_names=("g/x",))
    assert both.is_wanted([])
    assert both.is_wanted(["a/*"])
    assert both.is_wanted(["c", "*/y"])
    assert not both.is_wanted(["b"])
    assert not rare.is_wanted([])
    assert rare.is_wanted(["b"])
    assert all(on_gpu.is_wanted(patterns, on_gpu=True) for patterns in ([], ["g/*"]))
    assert not any(on_gpu.is_wanted(patterns) for patterns in ([], ["g/*"]))
    assert [row.name for row in measure(both, [])] == ["a/x", "a/y"]
    assert [row.name for row in measure(both, ["*/y"])] == ["a/y"]


def test_the_program_trains_as_many_iterations_as_are_timed_and_logs_them(
    programs: Programs, tmp_path: Path
) -> None:
    program = programs(TINY, tmp_path / "run")
    times = program.iterations(6)
    assert {kind: len(some) for kind, some in times.items()} == {"plain": 4, "logged": 1, "probed": 1}
    assert all(time > 0 for some in times.values() for time in some)
    assert program.gan.iteration == 6
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["iteration"] for row in rows] == [3, 6]
    assert ["grad_norm/d" in row for row in rows] == [False, True]
    assert program.seconds() > 0
    assert program.gan.iteration == 12
    assert list((tmp_path / "run").glob("**/*.p*")) == []  # neither checkpoints nor samples are timed


def test_the_program_is_the_same_training_as_bare_iterations(programs: Programs, tmp_path: Path) -> None:
    """Timing it changes nothing: the same bits after as many iterations."""
    program, (bare, _) = programs(TINY, tmp_path / "program"), gan_for(TINY, tmp_path)
    program.iterations(2)
    program.iterations(1)
    for _ in range(3):
        iterate(bare)
    for ours, theirs in zip(program.gan.generator.parameters(), bare.generator.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_gpu_s_seconds_are_of_whole_intervals_with_one_synchronization_at_either_end(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs((*TINY, "train.log_every=2", "probes.every=3"), tmp_path)
    at: list[int] = []
    monkeypatch.setattr("benchmarks.program.synchronize", lambda device: at.append(program.gan.iteration))
    assert [program.seconds_of_intervals() > 0 for _ in range(2)] == [True, True]
    assert at == [0, 6, 6, 12]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [2, 3, 4, 6, 8, 9, 10, 12]


def test_seconds_weigh_the_kinds_by_the_configs_intervals(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs((*TINY, "train.log_every=50", "probes.every=100"), tmp_path)
    fake = {"plain": [9.0, 1.0, 1.0, 5.0], "logged": [2.0, 4.0], "probed": [11.0]}  # the first one warms up
    monkeypatch.setattr(program, "iterations", lambda count: fake)
    assert program.seconds() == pytest.approx(0.98 * 1 + 0.01 * 3 + 0.01 * 11)


def test_operations_are_those_of_the_layers(tmp_path: Path) -> None:
    """Against a count by hand: every layer's forward pass, times what the two updates do with it."""
    gan, _ = gan_for((*TINY, "norm=none", "optimizer.n_dis=2"), tmp_path)
    forward: dict[nn.Module, int] = {}
    first: dict[str, int] = {}

    def count(network: str, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        # Each output of a convolution or a product, and each input of a transposed one, meets a filter.
        positions = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        forward[layer] = 2 * weight[0].numel() * positions.numel()
        first.setdefault(network, forward[layer])
        total[network] = total.get(network, 0) + forward[layer]

    total: dict[str, int] = {}
    for name, network in (("g", gan.generator), ("d", gan.discriminator)):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                layer.register_forward_hook(functools.partial(count, name))
    gan.generator(torch.zeros(2, 128))
    gan.discriminator(torch.zeros(2, 3, 32, 32))

    g, d = total["g"], total["d"]
    # A backward pass is two forward ones: for the weights and for the inputs, which a first layer's lack.
    d_update = g + 2 * (3 * d - first["d"])
    g_update = 3 * g - first["g"] + 2 * d
    assert floating_point_operations((*TINY, "optimizer.n_dis=2"), tmp_path) == 2 * d_update + g_update


def test_training_rows(tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "product_rate", lambda precision: 1e9)
    monkeypatch.setattr(plain, "ROWS", 4)
    rows = list(training.training("cnn32", beside_plain=True))
    assert names(rows) == set(MEASUREMENTS[0].names)
    values = {row.name: row.value for row in rows}
    operations = floating_point_operations(TINY, tmp_path)
    seconds = values["time/step/cnn32/fp32"] / 1000
    assert values["mfu/cnn32/fp32"] == pytest.approx(operations / seconds / 1e9)
    assert values["speed/cnn32/fp32"] == pytest.approx(2 / seconds)


def test_on_a_gpu_ieee_float32_and_tf32_are_two_precisions(
    tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with the product of that precision."""
    rates = {"fp32": 1e9, "tf32": 8e9, "bf16": 16e9}
    monkeypatch.setattr(training, "product_rate", rates.__getitem__)
    monkeypatch.setattr(training, "the_device", lambda: torch.device("cuda"))
    rows = {row.name: row.value for row in training.training("cnn32")}
    of_gpu = {name for name in MEASUREMENTS[0].gpu_names if not name.startswith("ratio/")}
    assert rows.keys() >= of_gpu
    assert [rows[f"rate/product/cnn32/{name}"] for name in rates] == [1, 8, 16]


def test_a_product_in_tf32_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a GPU is; afterwards products are exact again."""
    seen: list[str] = []

    def precision_now(*_: object, **__: object) -> float:
        seen.append(torch.get_float32_matmul_precision())
        return 1.0

    monkeypatch.setattr(training, "seconds_each", precision_now)
    for precision in ("fp32", "tf32", "bf16"):
        assert training.product_rate(precision, repeats=1) > 0
    assert seen == ["highest", "high", "highest"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_norm_probe_and_growth_rows(tiny: None) -> None:
    for function in (steps.norms, steps.rivals, steps.probes):
        (measurement,) = [some for some in MEASUREMENTS if some.rows is function]
        assert names(list(function(rounds=1))) == set(measurement.names)
    assert names(list(steps.growth(rounds=1))) == {
        "cost/width/0.0625",
        "cost/size/32",
        "cost/batch/2",
        "cost/batch/3",
    }


def test_bare_steps_train_both_networks(tmp_path: Path) -> None:
    """Otherwise the program would be compared with another training."""
    gan, _ = gan_for(TINY, tmp_path)
    networks = (gan.generator, gan.discriminator)
    before = [[parameter.clone() for parameter in network.parameters()] for network in networks]
    overhead.bare_steps(gan, 1)
    for network, old in zip(networks, before, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(old, network.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())


def test_the_plain_loop_trains_the_same_networks(tmp_path: Path) -> None:
    plain.write_cifar10(tmp_path, rows=2)
    loop = plain.PlainLoop(tmp_path, TINY)
    ours, _ = gan_for(TINY, tmp_path)
    for theirs, network in ((loop.generator, ours.generator), (loop.discriminator, ours.discriminator)):
        assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in network.parameters())
    layers = [layer for layer in loop.discriminator.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 8
    assert all(is_parametrized(layer, "weight") for layer in layers)
    before = [parameter.clone() for parameter in loop.generator.parameters()]
    assert all(np.isfinite(loop.step()))
    assert any(not torch.equal(a, b) for a, b in zip(before, loop.generator.parameters(), strict=True))


def test_the_loader_gives_the_archives_images(tmp_path: Path) -> None:
    """In [-1, 1], each once an epoch, as our batches have them."""
    images = plain.write_cifar10(tmp_path, rows=2)
    (batch, _), *rest = plain.loader(tmp_path, workers=0, batch_size=10)
    assert not rest
    pixels = ((batch + 1) * 127.5).round().to(torch.uint8).numpy()
    order: Callable[[np.ndarray], list[bytes]] = lambda some: sorted(image.tobytes() for image in some)  # noqa: E731
    assert order(pixels) == order(images)
