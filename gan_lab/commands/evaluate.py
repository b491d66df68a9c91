"""Judge runs, generators, checkpoints or folders of images."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gan_lab.commands import a_path
from gan_lab.errors import UserError
from gan_lab.evaluate import Verdict, judge, runs_below
from gan_lab.files import write_json
from gan_lab.runs.directory import versions


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="FID, IS, KID, precision and recall of anything.")
    add = parser.add_argument
    what = "runs, folders of runs, generators, checkpoints, folders of images; and overrides as for train.py"
    add(
        "what",
        nargs="+",
        type=os.path.expanduser,
        help=f"{what}, e.g. metrics=paper paths.data=/data device=cpu",
    )
    add("--against", metavar="DATASET", help="a choice of dataset (default: the run's own)")
    add("--metrics", help="some of fid,is,kid,prc (default: those of the protocol)")
    add("--num", type=int, help="how many images (default: what the protocol says, or the whole folder)")
    add("--weights", type=a_path, help="a file of Inception weights other than the published one")
    add("--record", action="store_true", help="put the figures into the runs' records, for compare.py")
    add("--json", type=a_path, metavar="FILE", help="write the figures there too")
    add("--allow", action="append", default=[], metavar="MODULE", help="your module, which the run names")
    add("--config-dir", type=a_path, help="a folder of your own choices, as for train.py")
    given = parser.parse_intermixed_args(arguments)
    overrides = [word for word in given.what if "=" in word and not Path(word).exists()]
    sources = [run for word in given.what if word not in overrides for run in runs_below(Path(word))]
    if not sources:
        parser.error("nothing to judge: give a run's directory, a generator, a checkpoint or a folder")
    verdicts, status = [], 0
    for source in sources:
        try:
            verdict = judge(
                source,
                given.against,
                given.metrics.split(",") if given.metrics else None,
                given.num,
                given.weights,
                overrides,
                given.config_dir,
                given.allow,
                given.record,
            )
            print(table(verdict), flush=True)
            verdicts.append(verdict)
        except UserError as error:  # of one of many: the others are judged all the same
            print(f"error: {error}", file=sys.stderr)
            status = 2
    if given.json and verdicts:
        write(given.json, verdicts)
    return status


def write(path: Path, verdicts: Sequence[Verdict]) -> None:
    """One verdict as an object, several as a list of them."""
    found = [{**dataclasses.asdict(verdict), "versions": versions()} for verdict in verdicts]
    try:
        write_json(path, found[0] if len(found) == 1 else found)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give --json another file") from error


def table(verdict: Verdict) -> str:
    rows = [("judged", verdict.source), ("against", verdict.against)]
    rows += [("protocol", f"metrics={','.join(verdict.metrics)}")]
    rows += [("recorded", "in the run's metrics.jsonl")] if verdict.recorded else []
    rows += [(name, f"{value:.6g}") for name, value in verdict.values.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)
