"""What each norm controls, measured: the README's table.

A network is trained for a few iterations and audited; then its stored weights are replaced, and it is audited
again: what a norm controls it controls whatever is stored.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from benchmarks.gans import gan_for
from benchmarks.operations import Operations
from benchmarks.rows import median_ratio
from benchmarks.steps import CNN, iteration_times
from gan_lab import norms, probes
from gan_lab.build import example_inputs
from gan_lab.errors import UserError
from gan_lab.files import write_text
from gan_lab.layers import KernelLayout, weighted_layers
from gan_lab.norms.audit import audit
from gan_lab.presets import CONFIGS
from gan_lab.training.gan import Gan, IterationInputs, Measure

SMALL = ("dataset=digits", "arch.width=0.125", "train.batch_size=8", "metrics=none", "init=kaiming")
HOST_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")
HEADER = (
    "norm",
    "gradient bound",
    "largest operator norm",
    "weight variance / LeCun's",
    "curvature",
    "cost",
    "in G",
    "bf16",
    "compiled",
    "one graph",
)
YES, NO, UNKNOWN = "yes", "no", "–"
BEGIN, END = (
    "<!-- norm matrix: begin -->",
    "<!-- norm matrix: end -->",
)  # the table's place in a Markdown file


@dataclass(frozen=True)
class Stored:
    """Discriminator's layers for one kind of stored weights."""

    operator_norm: float  # the largest of the layers
    variance_ratio: tuple[float, float]  # over LeCun's, least and largest of the layers


def norms_there_are() -> list[str]:
    """Those that `experiment=families` sweeps."""
    preset = yaml.safe_load((CONFIGS / "experiment" / "families.yaml").read_text(encoding="utf-8"))
    listed: str = preset["hydra"]["sweeper"]["params"]["norm"]
    return listed.replace(" ", "").split(",")


def table(chosen: Sequence[str], iterations: int, rounds: int, compiled: bool) -> str:
    """The rows of these norms as Markdown; `rounds` of 0 measure no cost, compiling takes a minute a norm."""
    costs = costs_of(chosen, rounds)
    rows = [HEADER, ("---",) * len(HEADER)]
    for norm in chosen:
        rows.append(
            (f"`{norm}`", *controls(norm, iterations), costs.get(norm, UNKNOWN), *workings(norm, compiled))
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def put(path: Path, found: str) -> None:
    """Put a table in its place in a Markdown file, for the one there."""
    before, after = place(path)
    write_text(path, f"{before}{BEGIN}\n{found}\n{END}{after}")


def place(path: Path) -> tuple[str, str]:
    """What stands before and after the table's place in a Markdown file; raises UserError without a place."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{path} has no place for the table: put the lines {BEGIN} and {END} into it")
    return before, after


def costs_of(chosen: Sequence[str], rounds: int) -> dict[str, str]:
    """An iteration over one without a norm: the reference CNN, 32 pixels, batch 64."""
    if not rounds:
        return {}
    times = iteration_times({norm: (*CNN, f"norm={norm}") for norm in {"none", *chosen}}, rounds)
    return {norm: f"{median_ratio(times[norm], times['none']):.2f}" for norm in chosen}


def controls(norm: str, iterations: int) -> tuple[str, str, str, str]:
    """Bound, operator norms, variances and curvature of the discriminator of a short training."""
    with tempfile.TemporaryDirectory() as folder:
        gan, config = gan_for((*SMALL, f"norm={norm}"), Path(folder))
    audits = []
    for iteration in range(1, iterations + 1):
        is_audit = iteration in (iterations // 2, iterations)
        values = gan.update(gan.draw(iteration), Measure.AUDIT if is_audit else Measure.NOTHING)
        if is_audit:
            audits.append(values)
    _, (image, *_) = example_inputs(config, gan.generator, gan.discriminator)
    found = [stored(gan.discriminator, image, change) for change in (as_it_is, tenfold, of_rank_one)]
    if any(one is None for one in found):
        operators = variances = UNKNOWN
    else:
        operators = ", ".join(f"{one.operator_norm:.2g}" for one in found if one)
        variances = ", ".join("{:.2g} to {:.2g}".format(*one.variance_ratio) for one in found if one)
    curvature = audits[-1].get("curvature/d")
    return bound(audits), operators, variances, UNKNOWN if curvature is None else f"{curvature.item():.2g}"


def bound(audits: Sequence[Mapping[str, Tensor]]) -> str:
    """Whether a bound was logged, and the largest share of it that a gradient had."""
    shares = [
        (values[name.replace("bound", "norm")] / value).item()
        for values in audits
        for name, value in values.items()
        if name.startswith("grad_bound/")
    ]
    return f"{YES}, {max(shares):.2g} of it" if shares else NO


def stored(
    discriminator: nn.Module, image: Tensor, change: Callable[[nn.Module, Tensor], None]
) -> Stored | None:
    """Of the discriminator whose stored weights were changed; None where it cannot be audited."""
    state = {name: value.clone() for name, value in discriminator.state_dict().items()}
    try:
        with torch.no_grad():
            for _, layer in weighted_layers(discriminator):
                change(layer, norms.trained_weight(layer))
            for _ in range(100):  # power iteration finds what has changed
                with norms.cached_weights(discriminator):
                    pass
            rows = audit(discriminator, image).layers
            with norms.frozen(discriminator):
                found = probes.weight_variances(discriminator)
    except ValueError:
        return None
    finally:
        discriminator.load_state_dict(state)
    ratios = [value.item() for name, value in found.items() if name.startswith("weight_var_ratio/")]
    return Stored(max(row.operator_norm for row in rows), (min(ratios), max(ratios)))


def as_it_is(layer: nn.Module, weight: Tensor) -> None:
    pass


def tenfold(layer: nn.Module, weight: Tensor) -> None:
    weight.mul_(10)


def of_rank_one(layer: nn.Module, weight: Tensor) -> None:
    """All filters alike up to a factor, and a trace of what was there."""
    kernel = KernelLayout.of(layer).kernel(weight).flatten(1)
    alike = torch.outer(kernel.norm(dim=1), kernel[0] / kernel[0].norm())
    weight.mul_(1e-3).add_(KernelLayout.of(layer).of_kernel(alike, weight.shape))


def workings(norm: str, compiled: bool) -> tuple[str, ...]:
    """Whether it trains in both networks, in bf16, compiled, and as a fixed sequence of operations."""
    options = [("norm.target=both",), ("train.precision=bf16",)]
    found = [trains((*SMALL, f"norm={norm}", *option)) for option in options]
    found.append(trains((*SMALL, f"norm={norm}", "train.compile=true")) if compiled else UNKNOWN)
    return *found, is_one_graph((*SMALL, f"norm={norm}"))


def trains(overrides: Sequence[str]) -> str:
    """Two iterations, and every loss and weight is finite; or what the config is refused for."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            gan, _ = gan_for(overrides, Path(folder))
    except UserError:
        return "refused"
    values = [value for step in (1, 2) for value in gan.update(gan.draw(step)).values()]
    is_sound = all(value.isfinite().all() for value in values)
    return YES if is_sound and probes.is_finite(gan.generator, gan.discriminator) else NO


def is_one_graph(overrides: Sequence[str]) -> str:
    """Whether two iterations are the same operations, of which none lets the host wait for a value."""
    with tempfile.TemporaryDirectory() as folder:
        gan, _ = gan_for(overrides, Path(folder))
    inputs = [gan.draw(step) for step in (1, 2, 3)]
    gan.update(inputs[0])
    seen = [operations_of_update(gan, one) for one in inputs[1:]]
    waits = any(call.startswith(HOST_WAITS) for call in seen[0])
    return NO if waits or seen[0] != seen[1] else YES


def operations_of_update(gan: Gan, inputs: IterationInputs) -> list[str]:
    with Operations() as operations:
        gan.update(inputs)
    return operations.seen
