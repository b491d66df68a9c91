"""The paper's story on digits: trains four norms where needed, and draws docs/norms_on_digits.png."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from hydra.errors import HydraException
from matplotlib.figure import Figure

from gan_lab import terminal
from gan_lab.config import compose, load
from gan_lab.errors import UserError
from gan_lab.files import replacing
from gan_lab.run import run
from gan_lab.runs.directory import RunDirectory
from gan_lab.tracking.history import History

NORMS = {
    "no norm": ["norm=none"],
    "SN": ["norm=sn"],
    "strict SN, scale 1": ["norm=strict_sn", "norm.scale=1.0"],
    "BSSN": ["norm=bssn"],
}
BUDGET = [
    "dataset=digits",
    "train.iterations=600",
    "train.evaluate_every=600",
    "probes.every=10",
    "tracker=local",
]
ROWS = {
    "grad_norm/d/": "gradient norm by the layer's weight",
    "weight_var_ratio/": "weight variance over LeCun's",
}
PALETTE = "viridis"  # reads the same with and without a colour deficiency, and in grey


@dataclass(frozen=True)
class Curves:
    """Of one run: `{metric: (iterations, values)}`, how it ended and its last FID."""

    series: Mapping[str, tuple[list[int], list[float]]]
    state: str
    fid: float | None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Gradient norms and weight variances by layer, for no norm, SN, strict SN and BSSN."
    )
    parser.add_argument("--out", type=Path, default=Path("docs/norms_on_digits.png"))
    parser.add_argument("overrides", nargs="*", help="as for train.py, for all four runs")
    given = parser.parse_intermixed_args(arguments)
    try:
        found = {title: curves([*BUDGET, *given.overrides, *choice]) for title, choice in NORMS.items()}
        draw(found, given.out)
    except (UserError, HydraException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"figure in {given.out}")
    return 0


def curves(overrides: Sequence[str]) -> Curves:
    """What a run logged; it is trained first where it is not finished. A diverged one is a result too."""
    cfg = compose(overrides)
    if run(cfg).exit_status not in (0, 3):
        raise UserError(f"the run of {' '.join(overrides)} did not end: see what is said above, and repeat")
    directory = RunDirectory(load(cfg).run_directory)
    rows = [json.loads(line) for line in directory.metrics.read_text(encoding="utf-8").splitlines()]
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(tuple(ROWS)) and value is not None and math.isfinite(value):
                iterations, values = series.setdefault(name, ([], []))
                iterations.append(row["iteration"])
                values.append(value)
    return Curves(series, directory.read_status()["state"], History(rows).fid)


def draw(found: Mapping[str, Curves], out: Path) -> None:
    """A column a run, a row a quantity, a line a layer from the first (dark) to the last (light)."""
    layers = list(dict.fromkeys(name.rsplit("/", 1)[1] for ended in found.values() for name in ended.series))
    colours = mpl.colormaps[PALETTE]([0.9 * index / max(1, len(layers) - 1) for index in range(len(layers))])
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots(len(ROWS), len(found), sharex=True, sharey="row", squeeze=False)
    for column, (title, ended) in enumerate(found.items()):
        for row, (prefix, label) in enumerate(ROWS.items()):
            panel = axes[row, column]
            for layer, colour in zip(layers, colours, strict=True):
                panel.plot(
                    *ended.series.get(prefix + layer, ([], [])), color=colour, linewidth=1.1, label=layer
                )
            panel.set_yscale("log")
            panel.grid(alpha=0.25, linewidth=0.5)
            if prefix == "weight_var_ratio/":
                panel.axhline(1, color="black", linestyle="--", linewidth=1, label="LeCun: 1/fan_in")
            if column == 0:
                panel.set_ylabel(label)
        axes[0, column].set_title(title + _ending(ended), fontsize=10)
        axes[-1, column].set_xlabel("iteration")
    handles, labels = axes[-1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8, title="layer of D")
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _ending(run: Curves) -> str:
    if run.state != "finished":
        return f"\n{run.state}"
    return "" if run.fid is None else f"\nFID on digits {run.fid:.1f}"


if __name__ == "__main__":
    terminal.run(main)
