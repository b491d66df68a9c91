"""Training: time, images a second and utilization of networks and precisions, and over a plain loop."""

import contextlib
import functools
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gans import the_device
from benchmarks.plain import plain_training
from benchmarks.program import Program, floating_point_operations
from benchmarks.rows import Row, median_ratio
from benchmarks.timing import in_turn, seconds
from gan_lab.errors import UserError

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Net:
    """A pair of networks as the paper trains them with SN, batch 64, and how many rounds suit their size."""

    overrides: tuple[str, ...]
    rounds: int


NETS = {
    "cnn32": Net(("dataset=cifar10",), 15),
    "cnn48": Net(("dataset=stl10",), 4),
    "cnn64": Net(("dataset=celeba",), 3),
    "resnet32": Net(("dataset=cifar10", "arch=resnet", "optimizer.n_dis=5"), 2),
}


def training(name: str, beside_plain: bool = False) -> Iterator[Row]:
    """Rows of one of NETS in each precision, the whole program with logging and probes at their intervals.

    - `time/step/<net>/<precision>`: an iteration; `speed/…`: real images a second.
    - `mfu/<net>/<precision>`: `floating_point_operations` a second over those of a matrix product of that
      precision in the same round; `rate/product/<net>/<precision>` is the latter.
    - with `beside_plain`, `ratio/bf16` and `ratio/plain_loop/<precision>`: the plain loop's time over ours.
    """
    net = NETS[name]
    overrides = [*net.overrides, "norm=sn"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        programs = {which: stack.enter_context(one) for which, one in _programs(overrides, folder)}
        measures: dict[str, Callable[[], float]] = {}
        for precision, program in programs.items():
            measures[precision] = program.seconds
            measures[f"product/{precision}"] = functools.partial(product_rate, PRECISIONS[precision])
        if beside_plain:
            measures["plain"] = stack.enter_context(plain_training(folder / "plain", overrides))
        values = in_turn(measures, net.rounds)
        operations = floating_point_operations(overrides, folder)
    for precision, program in programs.items():
        times, gan = values[precision], program.gan
        images = sum(gan.batches.sizes[: gan.n_dis])
        step = statistics.median(times)
        yield Row(f"time/step/{name}/{precision}", 1000 * step, "ms")
        yield Row(f"speed/{name}/{precision}", images / step, "images/s")
        rates = values[f"product/{precision}"]
        yield Row(f"rate/product/{name}/{precision}", statistics.median(rates) / 1e9, "GFLOP/s")
        utilization = median_ratio([operations / time for time in times], rates)
        yield Row(f"mfu/{name}/{precision}", utilization, "of a product")
        if beside_plain:
            yield Row(f"ratio/plain_loop/{precision}", median_ratio(values["plain"], times), "×")
    if beside_plain and len(programs) == len(PRECISIONS):
        yield Row("ratio/bf16", median_ratio(values["fp32"], values["bf16"]), "×")


def _programs(
    overrides: list[str], folder: Path
) -> Iterator[tuple[str, contextlib.AbstractContextManager[Program]]]:
    """The program in each precision that the config knows."""
    for precision in PRECISIONS:
        try:
            program = Program([*overrides, f"train.precision={precision}"], folder / precision)
        except UserError as error:
            log.warning("no rows in %s: %s", precision, error)
        else:
            yield precision, contextlib.closing(program)


def product_rate(dtype: torch.dtype, repeats: int = 5) -> float:
    """Floating point operations a second in a product of two large square matrices."""
    device = the_device()
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device).to(dtype)
    times = [seconds(lambda: matrix @ matrix, device) for _ in range(repeats)]
    return 2 * size**3 / statistics.median(times)
