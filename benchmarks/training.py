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
from benchmarks.timing import in_turn, seconds_each
from gan_lab.device import full_precision
from gan_lab.errors import UserError

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ON_A_GPU = {"tf32": torch.float32}  # whose convolutions take either


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
    - with `beside_plain`, `ratio/<precision>`: the time in fp32 over that in the precision; and
      `ratio/plain_loop/<precision>`: the plain loop's time over ours.

    On a GPU there are fp32, as IEEE has it, and tf32, in which its convolutions round their factors.
    """
    net = NETS[name]
    overrides = [*net.overrides, "norm=sn"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        programs = {which: stack.enter_context(one) for which, one in _programs(overrides, folder)}
        measures: dict[str, Callable[[], float]] = {}
        for precision, program in programs.items():
            measures[precision] = program.seconds
            measures[f"product/{precision}"] = functools.partial(product_rate, precision)
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
    if beside_plain and "fp32" in programs:
        for precision in programs.keys() - {"fp32"}:
            yield Row(f"ratio/{precision}", median_ratio(values["fp32"], values[precision]), "×")


def _programs(
    overrides: list[str], folder: Path
) -> Iterator[tuple[str, contextlib.AbstractContextManager[Program]]]:
    """The program in each precision that the config and the device know."""
    is_gpu = the_device().type == "cuda"
    for precision in {**PRECISIONS, **ON_A_GPU} if is_gpu else PRECISIONS:
        try:
            program = Program([*overrides, *choices(precision)], folder / precision)
        except UserError as error:
            log.warning("no rows in %s: %s", precision, error)
        else:
            yield precision, contextlib.closing(program)


def choices(precision: str) -> tuple[str, ...]:
    """The overrides for one of PRECISIONS or ON_A_GPU."""
    if precision == "tf32":
        return "train.precision=fp32", "train.tf32=true"
    return f"train.precision={precision}", f"train.tf32={str(precision != 'fp32').lower()}"


def product_rate(precision: str, repeats: int = 5) -> float:
    """Floating point operations a second in a product of two large square matrices, in a precision."""
    device = the_device()
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device).to({**PRECISIONS, **ON_A_GPU}[precision])
    with tf32_products() if precision in ON_A_GPU else full_precision():
        times = [seconds_each(lambda: matrix @ matrix, device, count=10) for _ in range(repeats)]
    return 2 * size**3 / statistics.median(times)


@contextlib.contextmanager
def tf32_products() -> Iterator[None]:
    """Inside the block a GPU's products of matrices round their factors as its convolutions in TF32 do."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
