"""Bare iterations against each other: norms and their rivals, probes, and how the cost grows."""

import functools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.gans import gan_for, iterate
from benchmarks.rows import Row, median_ratio
from benchmarks.timing import in_turn, seconds_each
from gan_lab.training.gan import Measure

NORMS = ("none", "sn", "ssn", "bsn", "bssn", "strict_sn")
FAMILIES = (
    "clipped_sn",
    "clipped_strict_sn",
    "spectral_condition",
    "stable_rank",
    "frobenius",
    "weight_norm",
    "forced_weight_norm",
    "certified",
    "least_of_four",
    "gram",
)
RIVALS = {
    "gradient_normalization": ("norm=gradient_normalization",),
    "gradient_penalty": ("penalty=gradient_penalty",),
    "r1": ("penalty=r1",),
    "r3gan": ("loss=relativistic", "penalty=r1_r2"),
    "orthogonal": ("penalty=orthogonal",),
    "layer_norm": ("norm=layer_norm",),
    "batch_norm": ("norm=batch_norm",),
    "diffaugment": ("augment=diffaugment",),
}
WIDTHS = (0.25, 0.5, 1.0)
BATCHES = (16, 32, 64, 128)
CNN = ("dataset=cifar10", "norm=sn")  # the reference CNN, 32 pixels, batch 64
SIZES = {32: CNN, 48: ("dataset=stl10", "norm=sn"), 64: ("dataset=celeba", "norm=sn")}


def norms(rounds: int = 31, chosen: Sequence[str] = NORMS[1:]) -> Iterator[Row]:
    """`ratio/norm/<norm>`: an iteration with each norm over one without; CNN, 32 pixels, batch 64."""
    times = iteration_times({name: (*CNN, f"norm={name}") for name in ("none", *chosen)}, rounds)
    for name in chosen:
        yield Row(f"ratio/norm/{name}", median_ratio(times[name], times["none"]), "×")


def rivals(rounds: int = 15) -> Iterator[Row]:
    """`ratio/rival/<choice>`: an iteration with what competes with norms, over one without; CNN as above."""
    settings = {name: (*CNN, "norm=none", *overrides) for name, overrides in RIVALS.items()}
    times = iteration_times({"none": (*CNN, "norm=none")} | settings, rounds)
    for name in RIVALS:
        yield Row(f"ratio/rival/{name}", median_ratio(times[name], times["none"]), "×")


def probes(rounds: int = 9) -> Iterator[Row]:
    """`ratio/probes`: training with probes at their default interval over training without.

    Computed from `ratio/probes/step`, an iteration with probes over one without.
    """
    with tempfile.TemporaryDirectory() as folder:
        gan, config = gan_for(CNN, Path(folder))

        def iteration(measure: Measure) -> float:
            return seconds_each(lambda: gan.update(gan.draw(gan.iteration + 1), measure), gan.device)

        measures = {"off": Measure.NOTHING, "on": Measure.PROBES}
        times = in_turn({name: functools.partial(iteration, one) for name, one in measures.items()}, rounds)
    step = median_ratio(times["on"], times["off"])
    yield Row("ratio/probes", 1 + (step - 1) / config.probes.every, "×")
    yield Row("ratio/probes/step", step, "×")


def growth(rounds: int = 3) -> Iterator[Row]:
    """`cost/width/<w>`, `cost/size/<pixels>`, `cost/batch/<b>`: an iteration as one of them grows."""
    settings: dict[str, tuple[str, ...]] = {
        f"cost/width/{width:g}": (*CNN, f"arch.width={width}") for width in WIDTHS
    }
    settings |= {f"cost/size/{size}": overrides for size, overrides in SIZES.items()}
    settings |= {f"cost/batch/{size}": (*CNN, f"train.batch_size={size}") for size in BATCHES}
    for name, times in iteration_times(settings, rounds).items():
        yield Row(name, 1000 * statistics.median(times), "ms")


def iteration_times(settings: Mapping[str, tuple[str, ...]], rounds: int) -> dict[str, list[float]]:
    """The times of bare iterations under each setting's overrides, in turn; no graphs."""
    with tempfile.TemporaryDirectory() as folder:
        measures: dict[str, Callable[[], float]] = {}
        for name, overrides in settings.items():
            gan, _ = gan_for(overrides, Path(folder))
            measures[name] = functools.partial(seconds_each, functools.partial(iterate, gan), gan.device)
        return in_turn(measures, rounds)
