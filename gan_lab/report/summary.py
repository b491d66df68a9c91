"""What is said when a run ends: how well it did, where its files lie, and what to try next."""

import shlex
import sys

from gan_lab import shell
from gan_lab.runs.directory import DIVERGED, FAILED, INTERRUPTED, RunDirectory
from gan_lab.tracking.history import History


def summary(directory: RunDirectory, state: str, history: History, was_before: bool = False) -> str:
    """The closing words of a run, a few lines of plain text."""
    status, root = directory.read_status(), directory.root
    iteration = status.get("iteration")
    headline = (
        f"already {state} at iteration {iteration}" if was_before else f"{state} after iteration {iteration}"
    )
    if status.get("reason"):
        headline += f": {status['reason']}"
    lines = ["", headline]
    for prefix, suffix, best in (
        ("metric/fid", "", "least"),
        ("metric/fd", "", "least"),
        ("metric/is", "_mean", "most"),
    ):
        for name, seen in history.metrics.items():
            if name.startswith(prefix) and name.endswith(suffix):
                lines.append(f"  {name:<24} last {seen.last:.3f}   best {getattr(seen, best):.3f}")
    if history.images_per_s:
        lines.append(f"  {'speed':<24} {history.images_per_s:.0f} images/s")
    stopped = history.stopped_learning()
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
        lines.append(f"  {'W&B (upload)':<24} {shell.command('sync-wandb', str(root))}")
    lines += ["", "next:", *_next_commands(directory, state), ""]
    return "\n".join(lines)


def _next_commands(directory: RunDirectory, state: str) -> list[str]:
    """Three commands to try, each with a comment on what it is for."""
    root, log = str(directory.root), shlex.quote(str(directory.log))
    typed = [argument for argument in sys.argv[1:] if not argument.startswith("fresh=")]
    commands = {
        shell.command("generate", root, "--num", "64", "--out", "grid.png"): "new samples",
        shell.command("train", "-m", *_without(typed, "norm", "seed"), "norm=none,sn,bssn", "seed=0,1"): (
            "the same under three norms: one run for each pair"
        ),
    }
    if state == DIVERGED:
        calmer = [*_without(typed, "norm", "optimizer.d_lr"), "norm=bssn", "optimizer.d_lr=5e-5"]
        commands = {
            f"less {log}": "what happened",
            shell.command("train", *calmer): "a norm, and a smaller step",
        }
    if state in (INTERRUPTED, FAILED):
        commands = {
            shell.command("train", *typed): "resumes where it stopped",
            f"less {log}": "what happened",
        }
    commands[shell.command("train", "--help")] = "the axes and their choices"
    return [f"  {command:<48}  # {purpose}" for command, purpose in commands.items()]


def _without(typed: list[str], *keys: str) -> list[str]:
    """What was typed, but for some keys and for the option to sweep."""
    kept = [word for word in typed if word not in ("-m", "--multirun")]
    return [word for word in kept if "=" not in word or word.partition("=")[0].lstrip("+") not in keys]
