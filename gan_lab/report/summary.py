"""What is said when a run ends: how well it did, where its files lie, and what to try next."""

from pathlib import Path

from gan_lab.run_directory import DIVERGED, INTERRUPTED, RunDirectory
from gan_lab.tracking.jsonl import read

# The extractor's and the protocol's suffixes, see gan_lab.metrics.
SUFFIXES = ("", "_fast", "_digits", "_unverified", "_unverified_fast")
FID_NAMES = tuple(f"metric/fid{suffix}" for suffix in SUFFIXES)
IS_NAMES = tuple(f"metric/is{suffix}_mean" for suffix in SUFFIXES)


def extremes(metrics: Path, name: str) -> dict[str, float | None]:
    """`first`, `last`, `least`, `most` of one metric over a metrics.jsonl; None where it never occurs."""
    values = [row[name] for row in read(metrics) if row.get(name) is not None]
    if not values:
        return dict.fromkeys(("first", "last", "least", "most"))
    return {"first": values[0], "last": values[-1], "least": min(values), "most": max(values)}


def summary(directory: RunDirectory, state: str, was_before: bool = False) -> str:
    """The closing words of a run, a few lines of plain text."""
    status = directory.read_status()
    root = directory.root
    headline = f"{state}{' before' if was_before else ''} after iteration {status.get('iteration')}"
    if status.get("reason"):
        headline += f": {status['reason']}"
    lines = ["", headline]
    for names, best in ((FID_NAMES, "least"), (IS_NAMES, "most")):
        for name in names:
            values = extremes(directory.metrics, name)
            if values["last"] is not None:
                lines.append(f"  {name:<24} last {values['last']:.3f}   best {values[best]:.3f}")
    speeds = [row["speed/images_per_s"] for row in read(directory.metrics) if "speed/images_per_s" in row]
    if speeds:
        lines.append(f"  {'speed':<24} {sorted(speeds)[len(speeds) // 2]:.0f} images/s")
    newest = max(directory.samples.glob("*.png"), default=None)
    lines.append(f"  {'samples':<24} {newest or 'none yet'}")
    lines.append(f"  {'metrics, log, weights':<24} {root}/metrics.jsonl, train.log, generator.safetensors")
    if (root / "wandb").exists():
        lines.append(f"  {'W&B (upload)':<24} wandb sync {root}/wandb/offline-run-*")
    lines += ["", "next:", *(f"  {command}" for command in _next_commands(root, state)), ""]
    return "\n".join(lines)


def _next_commands(root: Path, state: str) -> list[str]:
    if state == DIVERGED:
        return [
            f"less {root}/train.log                                # what went wrong",
            "python train.py norm=bssn optimizer.d_lr=5e-5        # a norm, or a smaller step",
            "python train.py ... fresh=true                       # the same again from the start",
        ]
    if state == INTERRUPTED:
        return ["the same command again                               # goes on where it stopped"]
    return [
        f"python scripts/generate.py {root} --num 64 --out grid.png",
        "python train.py -m norm=none,sn,bssn seed=0,1        # a sweep: one run for each pair",
        "python train.py --help                               # the axes and their choices",
    ]


