"""Every layer's sigma next to its exact value, of a run or of a config before training."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_lab.build import build_networks, example_inputs
from gan_lab.commands import a_path
from gan_lab.config import compose, load
from gan_lab.errors import UserError, first_line
from gan_lab.load import networks
from gan_lab.norms.audit import Audit, LayerAudit, audit
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RunDirectory

EXPLANATION = """
estimated   the sigma that the norm divides by, as it stands
exact       the singular value that it estimates; error is relative
sigma_out, sigma_in, sigma_op
            exact, of the trained weight: ‖[c_out, c_in·k]‖, ‖[c_in, c_out·k]‖, the layer's operator
effective   the operator norm of the weight that the network uses
method      how sigma_op was found: by an SVD, or by Lanczos iterations to the residual that follows
"""
HOST = torch.device("cpu")
KINDS = ("generator", "discriminator")
COLUMNS = (
    "layer", "estimated", "exact", "error", "sigma_out", "sigma_in", "sigma_op", "effective", "method",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Every layer's sigma next to its exact value, and the network's Lipschitz bound.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    what = "a run's directory or one of its checkpoints; or overrides as for train.py"
    add("what", nargs="*", type=os.path.expanduser, help=what)
    add("--network", choices=KINDS, default="discriminator")
    add("--config-dir", type=a_path, help="a folder of your own choices, as for train.py")
    add("--allow", action="append", default=[], metavar="MODULE", help="your module, which the run names")
    given = parser.parse_intermixed_args(arguments)
    if len(given.what) == 1 and "=" not in given.what[0]:
        title, network, example = of_run(Path(given.what[0]), given.network, given.allow)
    else:
        title, network, example = of_overrides(given.what, given.network, given.config_dir)
    print(title)
    print(table(measured(network, example)))
    return 0


def of_run(source: Path, kind: str, allow: Sequence[str]) -> tuple[str, nn.Module, tuple[Tensor, ...]]:
    """A title, the network as the run's newest checkpoint or the one given holds it, and an input for it."""
    if not source.exists():
        raise UserError(f"{source} is neither a run's directory nor an override: give a path, or key=value")
    directory = RunDirectory(source if source.is_dir() else source.absolute().parent.parent)
    config, *pair = networks(directory, HOST, allow)
    path = max(directory.checkpoints.glob("*.pt"), default=None) if source.is_dir() else source
    if path is None:
        raise UserError(f"the run {source} has no checkpoint yet: train it first")
    state = checkpoint.load(path)
    network = pair[KINDS.index(kind)]
    try:
        network.load_state_dict(state[kind])
    except (RuntimeError, KeyError) as error:
        reason = first_line(error)
        raise UserError(f"{path} does not hold the {kind} of {directory.config} ({reason})") from error
    title = f"{kind} of {directory.root} after iteration {state['iteration']}"
    return title, network, [*example_inputs(config, *pair)][KINDS.index(kind)]


def of_overrides(
    overrides: Sequence[str], kind: str, config_dir: Path | None
) -> tuple[str, nn.Module, tuple[Tensor, ...]]:
    """A title, the network that train.py would start with, and an input for it."""
    config = load(compose(overrides, config_dir))
    title = " ".join([kind, "before training:", *overrides])
    pair = build_networks(config, HOST)
    which = KINDS.index(kind)
    return title, pair[which], [*example_inputs(config, *pair)][which]


def measured(network: nn.Module, example: tuple[Tensor, ...]) -> Audit:
    try:
        return audit(network, *example)
    except ValueError as error:
        raise UserError(str(error)) from error


def table(found: Audit) -> str:
    """One line a layer, and the Lipschitz bound or the reason why there is none."""
    rows = [list(COLUMNS), *(_cells(row) for row in found.layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]])
        for row in rows
    ]
    if found.lipschitz is None:
        return "\n".join([*lines, "", f"no Lipschitz bound: {found.lipschitz_unknown}"])
    product = "sums and products of the effective norms and the activations' constants"
    return "\n".join([*lines, "", f"Lipschitz bound {found.lipschitz:.6g}: {product}"])


def _cells(row: LayerAudit) -> list[str]:
    method = row.method if row.method == "svd" else f"{row.method} {row.residual:.0e}"
    exact = (row.sigma_out, row.sigma_in, row.sigma_op, row.operator_norm)
    error = "-" if row.relative_error is None else f"{row.relative_error:.2%}"
    return [
        row.layer, *map(_number, (row.estimated, row.exact)), error, *map(_number, exact), method,
    ]  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
