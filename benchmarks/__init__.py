"""What things cost on the machine at hand.

The way through it: timing (several things in turn) -> gans, program, plain (what is timed) ->
training, steps, gpu, operations, overhead, data, evaluation, command (measurements, yielding rows) ->
rows (tables, the file).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

from benchmarks import command, data, evaluation, gpu, operations, overhead, steps, training
from benchmarks.rows import Row


@dataclass(frozen=True)
class Measurement:
    """The names of the rows that `rows` yields, and whether it runs unless asked for.

    `gpu_names` are those of rows that it yields on a GPU only.
    """

    names: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    by_default: bool = True
    gpu_names: tuple[str, ...] = ()

    def is_wanted(self, patterns: Sequence[str], on_gpu: bool = False) -> bool:
        """Whether a pattern may match one of the rows; without patterns, whether it runs by default."""
        names = (*self.names, *(self.gpu_names if on_gpu else ()))
        if not patterns:
            return self.by_default and bool(names)
        return any(
            fnmatchcase(name, pattern) or fnmatchcase(pattern, name) for pattern in patterns for name in names
        )


def _training(net: str, precisions: Iterable[str], *more: str) -> tuple[str, ...]:
    names = ("time/step", "speed", "rate/product", "mfu")
    return (*(f"{name}/{net}/{precision}" for name in names for precision in precisions), *more)


def _of_gpu_iterations(net: str, precision: str) -> Iterator[str]:
    for norm in gpu.NORMS:
        of = f"{net}/{norm}/{precision}"
        yield from (f"{what}/{of}/{way}" for what in ("gpu/time", "gpu/host_bound") for way in gpu.WAYS)
        yield from (f"{what}/{of}" for what in ("gpu/host", "gpu/kernels", "gpu/busy", "ratio/graphs"))
        if norm != "none":
            yield f"ratio/norm/graphs/{of}"


MEASUREMENTS = (
    Measurement(
        _training(
            "cnn32", training.PRECISIONS, "ratio/bf16", "ratio/plain_loop/fp32", "ratio/plain_loop/bf16"
        ),
        functools.partial(training.training, "cnn32", beside_plain=True),
        gpu_names=_training("cnn32", training.ON_A_GPU, "ratio/tf32", "ratio/plain_loop/tf32"),
    ),
    *(
        Measurement(
            _training(net, training.PRECISIONS),
            functools.partial(training.training, net),
            gpu_names=_training(net, training.ON_A_GPU),
        )
        for net in ("cnn48", "cnn64", "resnet32")
    ),
    *(
        Measurement(
            (),
            functools.partial(gpu.iterations, net, precision),
            gpu_names=tuple(_of_gpu_iterations(net, precision)),
        )
        for net, precision in product(gpu.NETS, gpu.PRECISIONS)
    ),
    Measurement(
        (),
        gpu.families,
        gpu_names=tuple(
            f"ratio/{kind}/graphs/cnn32/{name}/tf32"
            for kind, names in (("norm", steps.FAMILIES), ("rival", steps.RIVALS))
            for name in names
        ),
    ),
    Measurement(
        (),
        gpu.packing,
        gpu_names=tuple(f"{kind}/packing/{n}" for kind in ("gpu", "ratio") for n in gpu.TOGETHER),
    ),
    Measurement(tuple(f"ratio/norm/{name}" for name in steps.NORMS[1:]), steps.norms),
    Measurement(
        tuple(f"ratio/norm/{name}" for name in steps.FAMILIES),
        functools.partial(steps.norms, 11, steps.FAMILIES),
    ),
    Measurement(
        tuple(
            f"ops/{net}/{norm}/{precision}"
            for net in operations.NETS
            for norm in operations.NORMS
            for precision in operations.PRECISIONS
        ),
        operations.counts,
    ),
    Measurement(tuple(f"ratio/rival/{name}" for name in steps.RIVALS), steps.rivals),
    Measurement(("ratio/probes", "ratio/probes/step"), steps.probes),
    Measurement(("ratio/program", "time/step/demo"), overhead.program),
    Measurement(("ratio/data_path", "speed/data_path", "speed/data_path/loader"), data.data_path),
    Measurement(("ratio/prepare", "speed/prepare", "speed/prepare/plain"), data.preparation),
    Measurement(
        (
            "speed/evaluation/torch_fidelity",
            *(
                f"{kind}/evaluation/{name}"
                for kind in ("speed", "ratio", "difference")
                for name in evaluation.NAMES.values()
            ),
        ),
        evaluation.evaluation,
    ),
    Measurement(
        (), evaluation.on_a_gpu, gpu_names=tuple(f"speed/evaluation/gpu/{name}" for name in evaluation.DTYPES)
    ),
    Measurement(("time/first_step",), command.first_step),
    Measurement(("time/help",), command.help_text),
    Measurement(("time/checkpoint", "time/resume"), command.checkpoints),
    Measurement(("memory/peak",), command.memory),
    Measurement(
        (
            *(f"cost/width/{width:g}" for width in steps.WIDTHS),
            *(f"cost/size/{size}" for size in steps.SIZES),
            *(f"cost/batch/{size}" for size in steps.BATCHES),
        ),
        steps.growth,
    ),
    # Minutes, or gigabytes on the disk.
    Measurement(("effect/evaluation/reduced",), evaluation.effect, by_default=False),
    Measurement(
        (
            *(f"difference/lite/{kind}" for kind in ("largest", "median")),
            *(f"{kind}/lite/{name}" for name in evaluation.SETS for kind in ("distance", "effect")),
        ),
        evaluation.effect_on_real_features,
        by_default=False,
    ),
    Measurement(("wait/resident", "wait/on_disk"), data.waiting, by_default=False),
)


def measure(measurement: Measurement, patterns: Sequence[str]) -> Iterator[Row]:
    """The rows of a measurement that a pattern matches, or all where there are no patterns."""
    for row in measurement.rows():
        if not patterns or any(fnmatchcase(row.name, pattern) for pattern in patterns):
            yield row


__all__ = ["MEASUREMENTS", "Measurement", "Row", "measure"]
