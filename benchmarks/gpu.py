"""What only a GPU shows: its kernels, what the host takes, iterations as graphs, several runs at a time."""

import contextlib
import functools
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gans import gan_for
from benchmarks.rows import Row, median_ratio
from benchmarks.steps import FAMILIES, RIVALS
from benchmarks.timing import in_turn, seconds_each, synchronize
from benchmarks.training import choices
from gan_lab import build
from gan_lab.training.gan import Gan, IterationInputs
from gan_lab.training.graph import CHECKS, WARM_UP

NETS = {"cnn32": ("dataset=cifar10",), "resnet32": ("dataset=cifar10", "arch=resnet", "optimizer.n_dis=1")}
NORMS = ("none", "sn", "bssn", "strict_sn")
PRECISIONS = ("tf32", "bf16")
WAYS = ("eager", "graphs")
TOGETHER = (1, 2, 4, 8)  # processes on one GPU
PACKED = ("dataset=cifar10", "norm=sn")
PACKED_SECONDS = 5.0
PROFILED = 5  # iterations


class Kernels(NamedTuple):
    """What a GPU did in an iteration."""

    number: float  # of kernels, copies and fills
    busy: float  # seconds in which at least one of them ran


def iterations(net: str, precision: str, rounds: int = 3) -> Iterator[Row]:
    """Rows of the iterations of one of NETS and PRECISIONS under NORMS, batch 64, as the loop has them.

    - `gpu/time/<net>/<norm>/<precision>/<eager|graphs>`: in blocks with one synchronization.
    - `gpu/host/<net>/<norm>/<precision>`: until the calls of an eager one have returned, from an empty queue.
    - `gpu/kernels/…`: those of an eager one; `gpu/busy/…`: how long at least one of them runs.
    - `gpu/host_bound/…/<eager|graphs>`: the time over the busy one; 1 where the GPU never waits.
    - `ratio/graphs/…`: eager over graphs; `ratio/norm/graphs/…`: graphs with the norm over those without.

    What needs graphs is left out where CUDA refuses them.
    """
    with tempfile.TemporaryDirectory() as folder:
        chosen = (*NETS[net], *choices(precision))
        yield from _of(f"{net}/{{}}/{precision}", chosen, Path(folder), rounds)


def _of(name: str, overrides: Sequence[str], folder: Path, rounds: int) -> Iterator[Row]:
    """The rows of one network in one precision; `name` has a place for the norm."""
    iterates: dict[tuple[str, str], Callable[[], None]] = {}
    with contextlib.ExitStack() as stack:
        for norm in NORMS:
            for way in WAYS:
                gan, iterate = iterating([*overrides, f"norm={norm}"], folder, as_graphs=way == "graphs")
                stack.enter_context(gan.drawing_ahead())
                if iterate is not None:
                    iterates[norm, way] = iterate
        device = gan.device
        hosts = {norm: _host_seconds(iterates[norm, "eager"], device) for norm in NORMS}
        kernels = {norm: _profiled(iterates[norm, "eager"], device) for norm in NORMS}
        measures = {
            " ".join(key): functools.partial(seconds_each, iterate, device)
            for key, iterate in iterates.items()
        }
        times = in_turn(measures, rounds)
    for norm, way in iterates:
        step = statistics.median(times[f"{norm} {way}"])
        yield Row(f"gpu/time/{name.format(norm)}/{way}", 1000 * step, "ms")
        yield Row(f"gpu/host_bound/{name.format(norm)}/{way}", step / kernels[norm].busy, "×")
    for norm in NORMS:
        yield Row(f"gpu/host/{name.format(norm)}", 1000 * hosts[norm], "ms")
        yield Row(f"gpu/kernels/{name.format(norm)}", kernels[norm].number, "kernels")
        yield Row(f"gpu/busy/{name.format(norm)}", 1000 * kernels[norm].busy, "ms")
        if (norm, "graphs") not in iterates:
            continue
        graphs = times[f"{norm} graphs"]
        yield Row(f"ratio/graphs/{name.format(norm)}", median_ratio(times[f"{norm} eager"], graphs), "×")
        if norm != "none" and ("none", "graphs") in iterates:
            ratio = median_ratio(graphs, times["none graphs"])
            yield Row(f"ratio/norm/graphs/{name.format(norm)}", ratio, "×")


def families(rounds: int = 3) -> Iterator[Row]:
    """What every other norm of weights, and what competes with norms, costs where iterations are graphs.

    `ratio/<norm|rival>/graphs/cnn32/<name>/tf32`: an iteration as a graph with it over one without, batch 64.
    What CUDA refuses is left out.
    """
    settings = {"none": ("norm=none",), **{name: (f"norm={name}",) for name in FAMILIES}, **RIVALS}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        measures: dict[str, Callable[[], float]] = {}
        for name, overrides in settings.items():
            chosen = [*NETS["cnn32"], *choices("tf32"), *overrides]
            gan, iterate = iterating(chosen, Path(folder), as_graphs=True)
            stack.enter_context(gan.drawing_ahead())
            if iterate is not None:
                measures[name] = functools.partial(seconds_each, iterate, gan.device)
        times = in_turn(measures, rounds)
    for name in [*measures][1:] if "none" in measures else []:
        kind = "norm" if name in FAMILIES else "rival"
        yield Row(f"ratio/{kind}/graphs/cnn32/{name}/tf32", median_ratio(times[name], times["none"]), "×")


def iterating(
    overrides: Sequence[str], folder: Path, as_graphs: bool
) -> tuple[Gan, Callable[[], None] | None]:
    """A Gan, and what trains it by an iteration as the loop does; None where there are no graphs of it."""
    gan, config = gan_for(overrides, folder)
    monitor = build.build_monitor(config, gan)

    def update_and_see(inputs: IterationInputs) -> None:
        monitor.see(gan.update(inputs))

    graphed = build.build_graphed(config, gan, monitor) if as_graphs else None
    update: Callable[[IterationInputs], object] = graphed or update_and_see

    def iterate() -> None:
        update(gan.draw(gan.iteration + 1))

    if not as_graphs:
        return gan, iterate
    if graphed is not None:
        for _ in range(WARM_UP + CHECKS):
            iterate()
    return gan, None if graphed is None or graphed.refusal else iterate


def _host_seconds(iterate: Callable[[], None], device: torch.device, repeats: int = 10) -> float:
    """How long an iteration's calls take the host, which finds the queue empty."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        begin = time.perf_counter()
        iterate()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _profiled(iterate: Callable[[], None], device: torch.device) -> Kernels:
    """What the GPU does in an iteration, the mean over PROFILED."""
    iterate()
    synchronize(device)
    watched = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with profile(activities=watched, acc_events=True) as profiled:
        for _ in range(PROFILED):
            iterate()
        synchronize(device)
    return kernels_in(profiled.events(), PROFILED)


def kernels_in(events: Iterable[Any], count: int) -> Kernels:
    """What a profiler's events hold of a GPU in one of `count` iterations."""
    ran = [
        (event.time_range.start, event.time_range.end)  # in µs
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return Kernels(len(ran) / count, covered(ran) / 1e6 / count)


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of what intervals cover together: kernels of two streams run at the same time."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total


# --- several runs at a time


def packing() -> Iterator[Row]:
    """`gpu/packing/<n>`: real images a second of n processes that train the CNN with SN on one GPU, in all.

    `ratio/packing/<n>` is that over one process. With NVIDIA's MPS where it runs.
    """
    speeds = {count: sum(together(count, PACKED, PACKED_SECONDS)) for count in TOGETHER}
    for count, speed in speeds.items():
        yield Row(f"gpu/packing/{count}", speed, "images/s")
        yield Row(f"ratio/packing/{count}", speed / speeds[TOGETHER[0]], "×")


def together(count: int, overrides: Sequence[str], length: float) -> list[float]:
    """The images a second of each of `count` processes that train at the same time, for `length` seconds."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, _start, (barrier,)) as workers:
        return [*workers.map(_speed, [list(overrides)] * count, itertools.repeat(length))]


_barrier: Any


def _start(barrier: Any) -> None:
    global _barrier
    _barrier = barrier
    torch.set_num_threads(1)  # the host's part of a run on a GPU is Python


def _speed(overrides: list[str], length: float) -> float:
    """Train for `length` seconds, from when all processes are ready."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            gan, iterate = iterating(overrides, Path(folder), as_graphs=True)
            if iterate is None:
                gan, iterate = iterating(overrides, Path(folder), as_graphs=False)
            assert iterate is not None
            seconds_each(iterate, gan.device)
        except BaseException:
            _barrier.abort()  # the others would wait for ever
            raise
        _barrier.wait()
        begin, first = time.perf_counter(), gan.iteration
        with gan.drawing_ahead():
            while time.perf_counter() - begin < length:
                seconds_each(iterate, gan.device)
        elapsed = time.perf_counter() - begin
    return (gan.iteration - first) * sum(gan.batches.sizes[: gan.n_dis]) / elapsed
