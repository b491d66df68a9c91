"""A GPU's rows, as far as a CPU can yield them: their arithmetic, their names, processes at a time."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import DeviceType

from benchmarks import MEASUREMENTS, evaluation, gpu
from benchmarks.gpu import Kernels, covered, kernels_in
from benchmarks.rows import Row, read
from gan_lab import build
from gan_lab.device import allow_tf32
from gan_lab.training.gan import Gan
from gan_lab.training.graph import GraphedUpdate

TINY = ("dataset=cifar10", "arch.width=0.0625", "train.batch_size=2", "device=cpu")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12))
def test_what_intervals_cover_together(spans: list[tuple[int, int]]) -> None:
    intervals = [(start, start + length) for start, length in spans]
    moments = {moment for start, stop in intervals for moment in range(start, stop)}
    assert covered(intervals) == len(moments)


def test_kernels_are_what_ran_on_the_gpu_and_no_annotations_of_it() -> None:
    def event(where: DeviceType, start: float, end: float, is_annotation: bool = False) -> Any:
        interval = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(device_type=where, time_range=interval, is_user_annotation=is_annotation)

    events = [
        event(DeviceType.CPU, 0, 900),
        event(DeviceType.CUDA, 0, 1000, is_annotation=True),  # Optimizer.step, as long as all its kernels
        event(DeviceType.CUDA, 100, 300),
        event(DeviceType.CUDA, 200, 400),  # on another stream
        event(DeviceType.CUDA, 500, 600),
        event(DeviceType.CUDA, 700, 700),
    ]
    assert kernels_in(events, count=2) == Kernels(number=2, busy=pytest.approx(200e-6))


class AsBefore:
    """A graph that repeats what it recorded."""

    def ordinary(self, work: Callable[[], Any]) -> Any:
        return work()

    def record(self, work: Callable[[], Any]) -> Any:
        values = work()

        def repeat() -> None:
            for name, value in work().items():
                values[name].copy_(value)

        return repeat, values


class Refusing(AsBefore):
    def record(self, work: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, recorder: type[AsBefore]) -> None:
    """Tiny networks, whose iterations may be graphs of this kind."""

    def graphed(config: Any, gan: Gan, monitor: Any) -> GraphedUpdate:
        return GraphedUpdate(gan, monitor.see, recorder())

    monkeypatch.setattr(build, "build_graphed", graphed)
    monkeypatch.setattr(gpu, "NETS", {"cnn32": TINY})


@pytest.mark.parametrize("recorder", [AsBefore, Refusing])
def test_rows_of_iterations(recorder: type[AsBefore], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without those of graphs where CUDA refuses them."""

    as_on_a_gpu(monkeypatch, recorder)
    monkeypatch.setattr(gpu, "NORMS", ("none", "sn"))
    monkeypatch.setattr(gpu, "_profiled", lambda iterate, device: Kernels(100, 1e-3))
    rows = {row.name: row.value for row in gpu.iterations("cnn32", "bf16", rounds=1)}
    allow_tf32(True)
    expected = {
        name
        for measurement in MEASUREMENTS
        for name in measurement.gpu_names
        if "/cnn32/none/bf16" in name or "/cnn32/sn/bf16" in name
        if recorder is AsBefore or "graphs" not in name
    }
    assert rows.keys() == expected
    for way in gpu.WAYS if recorder is AsBefore else ("eager",):
        assert rows[f"gpu/host_bound/cnn32/sn/bf16/{way}"] == pytest.approx(
            rows[f"gpu/time/cnn32/sn/bf16/{way}"]
        )  # of a millisecond in which kernels run


@pytest.mark.parametrize("recorder", [AsBefore, Refusing])
def test_rows_of_every_other_norm(recorder: type[AsBefore], monkeypatch: pytest.MonkeyPatch) -> None:
    """None where CUDA refuses graphs."""

    as_on_a_gpu(monkeypatch, recorder)
    monkeypatch.setattr(gpu, "FAMILIES", ("frobenius",))
    monkeypatch.setattr(gpu, "RIVALS", {"r1": ("penalty=r1",)})
    names = {row.name for row in gpu.families(rounds=1)}
    assert names == {
        name
        for measurement in MEASUREMENTS
        for name in measurement.gpu_names
        if recorder is AsBefore and name.endswith(("graphs/cnn32/frobenius/tf32", "graphs/cnn32/r1/tf32"))
    }


def test_a_profile_without_a_gpu_holds_no_kernels(tmp_path: Path) -> None:
    gan, iterate = gpu.iterating(TINY, tmp_path, as_graphs=False)
    assert iterate is not None
    assert gpu._profiled(iterate, gan.device) == Kernels(0, 0)
    assert gan.iteration == 1 + gpu.PROFILED


def test_several_processes_train_at_the_same_time() -> None:
    speeds = gpu.together(2, [*TINY, "norm=sn"], length=0.1)
    assert len(speeds) == 2
    assert all(speed > 0 for speed in speeds)


def test_packing_is_the_sum_over_processes_and_its_share_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = 100.0
    monkeypatch.setattr(gpu, "together", lambda count, *_: [alone * (1 - 0.1 * (count - 1))] * count)
    rows = list(gpu.packing())
    assert rows[:4] == [
        Row("gpu/packing/1", 100, "images/s"),
        Row("ratio/packing/1", 1, "×"),
        Row("gpu/packing/2", 180, "images/s"),
        Row("ratio/packing/2", 1.8, "×"),
    ]
    (measurement,) = [one for one in MEASUREMENTS if one.rows is gpu.packing]
    assert {row.name for row in rows} == set(measurement.gpu_names)


def test_rows_of_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "GPU_BATCH", 1)
    rows = list(evaluation.on_a_gpu(rounds=1))
    (measurement,) = [one for one in MEASUREMENTS if one.rows is evaluation.on_a_gpu]
    assert {row.name for row in rows} == set(measurement.gpu_names)
    assert all(row.value > 0 for row in rows)


def test_the_docs_say_what_the_record_of_a_gpu_holds() -> None:
    """The table of docs/performance.md, and the README's ratios."""
    root = Path(__file__).resolve().parents[2]
    values = {row.name: row.value for row in read(root / "docs" / "gpu" / "h200.json")}
    table = (root / "docs" / "performance.md").read_text()
    for norm in gpu.NORMS:
        of = f"cnn32/{norm}/tf32"
        over_none = 1 if norm == "none" else values[f"ratio/norm/graphs/{of}"]
        times = [values[f"gpu/time/{of}/{way}"] for way in gpu.WAYS]
        cells = [*times, values[f"ratio/graphs/{of}"]]
        others = [values[f"gpu/{what}/{of}"] for what in ("kernels", "busy", "host")]
        row = " | ".join(f"{value:.4g}" for value in (*cells, *others, over_none))
        assert f"| {norm} | {row} |" in table
    readme = (root / "README.md").read_text()
    graphs = [f"{values[f'ratio/graphs/cnn32/{norm}/tf32']:.1f}" for norm in ("none", "sn", "bssn")]
    assert "{} times (no norm), {} (SN) and {} times (BSSN)".format(*graphs) in readme
    over = [f"{values[f'ratio/norm/graphs/cnn32/{norm}/tf32']:.2f}" for norm in ("sn", "bssn")]
    assert "SN takes {}\n  times, BSSN {} times as long".format(*over) in readme
