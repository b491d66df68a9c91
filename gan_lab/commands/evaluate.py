"""Judge a run, a generator, a checkpoint or a folder of images."""

import argparse
import dataclasses
import sys
from pathlib import Path

from gan_lab.errors import UserError
from gan_lab.evaluate import Verdict, judge
from gan_lab.files import write_json
from gan_lab.runs.directory import versions


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="FID, IS, KID, precision and recall of anything.")
    add = parser.add_argument
    add("source", type=Path, help="a run's directory, generator or checkpoint, or a folder of images")
    add("--against", metavar="DATASET", help="a choice of dataset (default: the run's own)")
    add("--metrics", help="some of fid,is,kid,prc (default: fid,is)")
    add("--num", type=int, help="how many images (default: what the protocol says, or the whole folder)")
    add("--weights", type=Path, help="a file of Inception weights other than the published one")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    add("--allow", action="append", default=[], metavar="MODULE", help="your module, which the run names")
    add("--config-dir", type=Path, help="a folder of your own choices, as for train.py")
    add("overrides", nargs="*", help="as for train.py, e.g. metrics=paper paths.data=/data device=cpu")
    given = parser.parse_intermixed_args(arguments)
    try:
        verdict = judge(
            given.source,
            given.against,
            given.metrics.split(",") if given.metrics else None,
            given.num,
            given.weights,
            given.overrides,
            given.config_dir,
            given.allow,
        )
        print(table(verdict))
        if given.json:
            write(given.json, verdict)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write(path: Path, verdict: Verdict) -> None:
    try:
        write_json(path, {**dataclasses.asdict(verdict), "versions": versions()})
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give --json another file") from error


def table(verdict: Verdict) -> str:
    protocol = f"metrics={verdict.metrics['name']}"
    rows = [("judged", verdict.source), ("against", verdict.against), ("protocol", protocol)]
    rows += [(name, f"{value:.6g}") for name, value in verdict.values.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)
