"""What is said when a run ends: how well it did, where its files lie, and what to try next."""

import itertools
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from gan_lab.runs.directory import DIVERGED, FAILED, INTERRUPTED, RunDirectory
from gan_lab.tracking.jsonl import read

Row = Mapping[str, Any]  # of a metrics.jsonl

# Of the names of metrics, see gan_lab.metrics: the extractor's, its precision's and the protocol's.
SUFFIXES = tuple(
    map("".join, itertools.product(("", "_digits", "_unverified"), ("", "_bf16"), ("", "_fast")))
)
FID_NAMES = tuple(f"metric/fid{suffix}" for suffix in SUFFIXES)
IS_NAMES = tuple(f"metric/is{suffix}_mean" for suffix in SUFFIXES)


def extremes(rows: Iterable[Row], name: str) -> dict[str, float | None]:
    """`first`, `last`, `least`, `most` of one metric in a run's record; None where it never occurs."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return dict.fromkeys(("first", "last", "least", "most"))
    return {"first": values[0], "last": values[-1], "least": min(values), "most": max(values)}


def stopped_learning(rows: Iterable[Row], least: int = 3) -> int | None:
    """The last iteration in a run's record at which the discriminator's gradient was not 0; else 0.

    None unless it was 0 in the last `least` rows or more that have it.
    """
    learned, zeros = 0, 0
    for row in rows:
        if row.get("grad_norm/d", 0) != 0:
            learned, zeros = row["iteration"], 0
        elif "grad_norm/d" in row:
            zeros += 1
    return learned if zeros >= least else None


def summary(directory: RunDirectory, state: str, was_before: bool = False) -> str:
    """The closing words of a run, a few lines of plain text."""
    status = directory.read_status()
    root, rows = directory.root, list(read(directory.metrics))
    headline = f"{state}{' before,' if was_before else ''} after iteration {status.get('iteration')}"
    if status.get("reason"):
        headline += f": {status['reason']}"
    lines = ["", headline]
    for names, best in ((FID_NAMES, "least"), (IS_NAMES, "most")):
        for name in names:
            values = extremes(rows, name)
            if values["last"] is not None:
                lines.append(f"  {name:<24} last {values['last']:.3f}   best {values[best]:.3f}")
    speeds = [row["speed/images_per_s"] for row in rows if row.get("speed/images_per_s")]
    if speeds:
        lines.append(f"  {'speed':<24} {sorted(speeds)[len(speeds) // 2]:.0f} images/s")
    stopped = stopped_learning(rows)
    if stopped is not None:
        lines.append(
            f"  the discriminator learned nothing after iteration {stopped}, its gradient being 0 (as where "
            "all images are apart by the hinge's margin): lower optimizer.d_lr or raise optimizer.g_lr"
        )
    files = {
        "samples": max(directory.samples.glob("*.png"), default=directory.samples),
        "metrics": directory.metrics,
        "weights": directory.generator,
        "log": directory.log,
    }
    lines += [f"  {name:<24} {path}" for name, path in files.items() if path.exists()]
    if any(root.glob("wandb/offline-run-*")):
        lines.append(f"  {'W&B (upload)':<24} wandb sync {shlex.quote(str(root))}/wandb/offline-run-*")
    lines += ["", "next:", *_next_commands(directory, state), ""]
    return "\n".join(lines)


def _next_commands(directory: RunDirectory, state: str) -> list[str]:
    """Three commands to try, each with a comment on what it is for."""
    root, log = shlex.quote(str(directory.root)), shlex.quote(str(directory.log))
    commands = {
        f"python scripts/generate.py {root} --num 64 --out grid.png": "new samples",
        "python train.py -m norm=none,sn,bssn seed=0,1": "a sweep: one run for each pair",
    }
    if state == DIVERGED:
        commands = {
            f"less {log}": "what happened",
            "python train.py norm=bssn optimizer.d_lr=5e-5": "a norm, or a smaller step",
        }
    if state in (INTERRUPTED, FAILED):
        typed = [argument for argument in sys.argv if not argument.startswith("fresh=")]
        commands = {
            shlex.join(["python", *typed]): "goes on where it stopped",
            f"less {log}": "what happened",
        }
    commands["python train.py --help"] = "the axes and their choices"
    return [f"  {command:<48}  # {purpose}" for command, purpose in commands.items()]
