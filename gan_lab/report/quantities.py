"""What was measured inside the networks of a run, each as one number, and its last metrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gan_lab.report import records
from gan_lab.report.records import Record
from gan_lab.report.runs import Damaged, Run


@dataclass(frozen=True)
class Quantity:
    """One number of a run: the median over the second half of its training.

    Of a quantity by layer, `prefix` ends in / and the layers' geometric mean is taken, or with `spread` the
    mean of the absolute logarithms, which is 0 where every layer has the value 1. With `largest` it is the
    largest of the whole training, of what was logged.
    """

    title: str
    prefix: str
    spread: bool = False
    largest: bool = False

    @property
    def is_typical(self) -> bool:
        """Whether it is the middle value, neither a spread nor a peak."""
        return not self.spread and not self.largest

    def names(self, known: Sequence[str]) -> list[str]:
        if self.prefix.endswith("/"):
            return [name for name in known if name.startswith(self.prefix)]
        return [name for name in known if name == self.prefix]


VARIANCE = "weight variance over LeCun's"  # the paper's argument
QUANTITIES = (
    Quantity("loss of the discriminator", "loss/d"),  # hinge: 2 where it tells nothing, 0 where it has won
    Quantity("gradient norm of the discriminator", "grad_norm/d"),
    Quantity("largest gradient norm of the discriminator", "grad_norm/d", largest=True),
    Quantity("gradient norm of the generator", "grad_norm/g"),
    Quantity("slope at real images", "slope/real_mean"),
    Quantity("slope at generated images", "slope/fake_mean"),
    Quantity(VARIANCE, "weight_var_ratio/"),
    Quantity("distance of the weight variances from LeCun's", "weight_var_ratio/", spread=True),
    Quantity("sigma", "sigma/"),
    Quantity("operator norm of the layers", "operator_norm/"),
    Quantity("stable rank of the layers", "stable_rank/"),
    Quantity("Lipschitz bound of the discriminator", "lipschitz/d"),
    Quantity("bound of the layers' gradient norms", "grad_bound/d/"),
    Quantity("curvature", "curvature/d"),
    Quantity("spread of the operator norms over the layers", "operator_norm_spread/d"),
    Quantity("median singular value over the largest", "spectrum_median/"),
)


@dataclass(frozen=True)
class Facts:
    """Of one run: by name its last metrics, by title its quantities (absent where there is no number)."""

    metrics: dict[str, float] = field(default_factory=dict)
    quantities: dict[str, float] = field(default_factory=dict)


def read(runs: Sequence[Run]) -> tuple[dict[str, Facts], list[Damaged]]:
    """The facts of each run, by its name, and what could not be read."""
    found: dict[str, Facts] = {}
    damaged: list[Damaged] = []
    for run in runs:
        try:
            names = list(records.glimpse(run.directory.metrics))
            judged = [name for name in names if name.startswith("metric/") and not name.endswith("_std")]
            measured = [name for quantity in QUANTITIES for name in quantity.names(names)]
            record = records.read(run.directory.metrics, list(dict.fromkeys([*judged, *measured])))
        except (records.Unreadable, OSError) as error:
            damaged.append(Damaged(run.name, str(error)))
            continue
        if record.complaint:
            damaged.append(Damaged(run.name, record.complaint))
        found[run.name] = Facts(_last(record, judged), _quantities(record))
    return found, damaged


def _last(record: Record, names: Sequence[str]) -> dict[str, float]:
    last = {}
    for name in names:
        column = record.columns[name] if name in record.columns else np.empty(0)
        if len(there := column[np.isfinite(column)]):
            last[name] = float(there[-1])
    return last


def _quantities(record: Record) -> dict[str, float]:
    if not len(record.iteration):
        return {}
    late = record.iteration > record.iteration[-1] / 2
    found = {}
    for quantity in QUANTITIES:
        columns = [record.columns[name] for name in quantity.names(list(record.columns))]
        layers = [_largest(column) if quantity.largest else _median(column[late]) for column in columns]
        known = [value for value in layers if value is not None]
        if not known:
            continue
        if not quantity.prefix.endswith("/"):
            found[quantity.title] = known[0]
        elif min(known) > 0:
            logs = [math.log(value) for value in known]
            mean = sum(map(abs, logs) if quantity.spread else logs) / len(logs)
            found[quantity.title] = mean if quantity.spread else math.exp(mean)
    return found


def _median(values: NDArray[np.floating]) -> float | None:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if len(there) else None


def _largest(values: NDArray[np.floating]) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.max()) if len(there) else None
