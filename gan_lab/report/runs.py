"""The runs below a folder, as their directories tell: what each was told to do, and how it stands."""

import contextlib
import dataclasses
import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from gan_lab.config import identity
from gan_lab.errors import UserError
from gan_lab.report.records import last_row
from gan_lab.runs.directory import DIVERGED, FINISHED, RunDirectory

UNKNOWN = "unknown"  # the state of a run whose status cannot be read
IMAGES = "dataset.images"  # what the images are known by, as if it were a config key
AXES = ("dataset", "arch", "norm", "init", "loss", "penalty", "augment", "optimizer")  # as labels name them
AXIS_KEYS = tuple(f"{axis}.name" for axis in AXES)
MARKS = ("config.yaml", "status.json", "metrics.jsonl")  # a folder with any of them is a run's
SET_ASIDE = re.compile(r"\.kept\d+")  # also where a copy of it got another name
OWN_NAME = re.compile(r"seed\d+-[0-9a-f]{8}")  # of a run's directory
MOST_NAMED = 5  # copies in a line
MOST_ENTRIES, MOST_DEPTH = 5_000, 30  # of a config that is believed


@dataclass(frozen=True)
class Run:
    """One run: `name` is its path below the folder searched, `config` maps dotted keys to plain values.

    `identity` is the part of the config that decides what the run computes, `copies` are the names of other
    directories with the same.
    """

    name: str
    directory: RunDirectory
    config: dict[str, Any]
    identity: dict[str, Any]
    state: str
    iteration: int
    reason: str
    copies: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Without having diverged."""
        return self.state == FINISHED and not self.reason

    @property
    def diverged(self) -> bool:
        """Also where it went on all the same, which is the one reason that a run gives for its end."""
        return self.state == DIVERGED or (self.state == FINISHED and bool(self.reason))

    @property
    def iterations(self) -> int:
        """How many it is to have, 0 where its config does not say."""
        planned = self.config.get("train.iterations")
        return planned if isinstance(planned, int) else 0


@dataclass(frozen=True)
class Damaged:
    """Something in a run directory that cannot be read: named, and left out."""

    name: str
    reason: str


def find(root: Path) -> tuple[list[Run], list[Damaged]]:
    """The runs below `root` in the order of their names, and what is damaged; raises UserError without any.

    Runs that `fresh=true` set aside are left out. Of directories that hold the same run there is one, the one
    that is furthest, or else newest: a directory is a function of what is computed, so the others are copies.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder: give the one that paths.outputs names")
    runs: list[Run] = []
    damaged: list[Damaged] = []
    for folder in folders(root):
        name = plain(str(folder.relative_to(root)) if folder != root else folder.name)
        directory = RunDirectory(folder)
        try:
            stored = directory.read_config()
            config, decides = flatten(stored), flatten(identity(stored))
        except (UserError, ValueError) as error:
            damaged.append(Damaged(name, plain(str(error))))
            continue
        status = directory.read_status()
        state, reason = status.get("state", UNKNOWN), plain(str(status.get("reason", "")))
        # Seeds of other images are no seeds of one setting; what was verified cannot differ.
        if isinstance(images := status.get("images"), str) and config.get("dataset.verify") is not True:
            known = {IMAGES: plain(images[:8])}
            config, decides = config | known, decides | known
        runs.append(Run(name, directory, config, decides, state, status.get("iteration", 0), reason))
    if not runs and not damaged:
        raise UserError(f"{root} holds no run: give the folder that paths.outputs names")
    runs = sorted(_without_copies(runs), key=lambda run: natural(run.name))
    unknown = "status.json is missing or cannot be read: its state is unknown"
    return runs, [*damaged, *(Damaged(run.name, unknown) for run in runs if run.state == UNKNOWN)]


def _without_copies(runs: Sequence[Run]) -> list[Run]:
    same: dict[str, list[Run]] = {}
    for run in runs:
        known = "seed" in run.identity  # else it is no config that tells runs apart
        decides = {key: value for key, value in run.identity.items() if key != IMAGES}
        same.setdefault(json.dumps(decides, sort_keys=True) if known else run.name, []).append(run)
    kept = []
    for some in chain.from_iterable(map(_by_images, same.values())):
        first, *others = sorted(some, key=_how_far, reverse=True) if len(some) > 1 else some
        kept.append(dataclasses.replace(first, copies=tuple(run.name for run in others)))
    return kept


def _by_images(runs: Sequence[Run]) -> Iterable[list[Run]]:
    """The runs of each set of images; one whose status does not say which belongs to any."""
    known: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: IMAGES not in run.identity):
        known.setdefault(run.identity.get(IMAGES, next(iter(known), "")), []).append(run)
    return known.values()


def _how_far(run: Run) -> tuple[int, str, bool, int, int]:
    """What orders copies of a run: iterations, the time of the status, and whose place is a run's own."""
    last = last_row(run.directory.metrics).get("iteration")
    written = str(run.directory.read_status().get("time", ""))
    with contextlib.suppress(ValueError):
        written = datetime.fromisoformat(written).astimezone(UTC).isoformat()
    folder = run.directory.root
    own_parents = values(run, ("dataset.name", "arch.name", "norm.name"))
    is_own_place = folder.parts[-4:-1] == own_parents and OWN_NAME.fullmatch(folder.name) is not None
    iteration = max(run.iteration, last if isinstance(last, int) else 0)
    return iteration, written, is_own_place, -len(folder.parts), -len(run.name)


def passed_over(runs: Iterable[Run]) -> str:
    """A line that names the copies of these runs, empty where there are none."""
    copies = {copy: run.name for run in runs for copy in run.copies}
    named = [f"{copy} (of {run})" for copy, run in list(copies.items())[:MOST_NAMED]]
    named += [f"{len(copies) - MOST_NAMED} more"] if len(copies) > MOST_NAMED else []
    return f"Passed over as copies, which are no further seeds: {', '.join(named)}." if copies else ""


def folders(root: Path) -> Iterator[Path]:
    """The run directories below `root`, but for those that `fresh=true` set aside."""
    for folder, subfolders, files in os.walk(root):
        if any(mark in files for mark in MARKS):
            subfolders.clear()  # what lies in a run directory is no other run
            yield Path(folder)
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and not SET_ASIDE.search(name)
        )


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys to plain values, lists as JSON; raises ValueError where there is no end of them."""
    flat: dict[str, Any] = {}
    stack: list[tuple[str, Any, int]] = [("", config, 0)]
    seen = 0
    while stack:
        key, node, depth = stack.pop()
        seen += 1
        if seen > MOST_ENTRIES or depth > MOST_DEPTH:
            raise ValueError("config.yaml holds more than a config can: start the run over with fresh=true")
        if isinstance(node, dict) and node:
            stack += [(f"{key}.{k}" if key else str(k), v, depth + 1) for k, v in reversed(node.items())]
        elif isinstance(node, list):
            if not all(isinstance(item, (str, int, float, bool, type(None))) for item in node[:MOST_ENTRIES]):
                stack += [(f"{key}.{index}", item, depth + 1) for index, item in enumerate(node)]
            else:
                flat[plain(key)] = plain(json.dumps(node[:MOST_ENTRIES], ensure_ascii=False))
        else:
            flat[plain(key)] = (
                node if isinstance(node, (bool, int, float)) or node is None else plain(str(node))
            )
    return flat


def plain(text: str) -> str:
    """Text without control characters, which could steer a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key by which seed2 comes before seed10."""
    pieces = re.findall(r"\d+(?:\.\d+)?|\D+", text)
    return [(0, float(piece), "") if piece[0].isdigit() else (1, 0.0, piece) for piece in pieces]


def is_number(text: str) -> bool:
    """Whether a value of a config, as text, is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def in_order(value: str) -> tuple[bool, float, list[tuple[int, float, str]]]:
    """A sort key for values of a config: numbers by their size, then the rest in natural order."""
    return (False, float(value), []) if is_number(value) else (True, 0.0, natural(value))


def find_key(runs: Sequence[Run], typed: str) -> str:
    """The key of the configs that a person means: `norm` is norm.name; raises UserError if there is none."""
    known = {key for run in runs for key in run.config}
    for key in (typed, f"{typed}.name"):
        if key in known:
            return key
    near = difflib.get_close_matches(typed, [*known, *AXES], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see any config.yaml for what there is"
    raise UserError(f"no run has the config key {typed!r}: {hint}")


def where(runs: Sequence[Run], conditions: Iterable[str]) -> list[Run]:
    """The runs that meet all of `key=value` or `key=value,value`; raises UserError where none is left."""
    if not runs:
        raise UserError("none of the runs can be read, see sweep_status.py: start them over with fresh=true")
    kept = list(runs)
    for condition in conditions:
        typed, equals, wanted = condition.partition("=")
        if not equals:
            raise UserError(f"--where {condition} is no condition: write key=value, as in dataset=cifar10")
        key = find_key(runs, typed)
        kept = [run for run in kept if key in run.config and _meets(run.config[key], wanted)]
    if not kept:
        raise UserError(f"no run meets {' '.join(conditions)}: leave a condition out")
    return kept


def _meets(value: object, wanted: str) -> bool:
    return any(_means(value, typed) for typed in wanted.split(","))


def _means(value: object, typed: str) -> bool:
    if text(value) == typed:
        return True
    try:
        return bool(yaml.safe_load(typed) == value and not isinstance(value, str))
    except yaml.YAMLError:
        return False


def text(value: object) -> str:
    """A value of a config as people type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def differing(runs: Sequence[Run]) -> list[str]:
    """The config keys whose values are not the same in all runs, in the configs' order."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [key for key in keys if len({text(run.config.get(key, ...)) for run in runs}) > 1]


def setting_keys(runs: Sequence[Run]) -> list[str]:
    """The differing keys that may change what a run computes, the seed aside; axes before their details."""
    decide = {"train.iterations"}.union(*(run.identity for run in runs)) - {"seed"}
    return sorted((key for key in differing(runs) if key in decide), key=_rank)


def settings(runs: Sequence[Run], keys: Sequence[str] | None = None) -> list[str]:
    """The fewest of these keys (None: `setting_keys`) that tell the runs apart as well as all of them do."""
    chosen: list[str] = []
    parts = 1
    for key in setting_keys(runs) if keys is None else keys:
        finer = len({values(run, [*chosen, key]) for run in runs})
        if finer > parts:
            chosen, parts = [*chosen, key], finer
    return chosen


def _rank(key: str) -> tuple[bool, int, int]:
    axis = AXIS_KEYS.index(key) if key in AXIS_KEYS else len(AXES)
    return "_target_" in key, axis, key.count(".")


def value(run: Run, key: str) -> str:
    """The run's value at a key as text, – where it has none."""
    return text(run.config[key]) if key in run.config else "–"


def values(run: Run, keys: Iterable[str]) -> tuple[str, ...]:
    """The run's values at some keys."""
    return tuple(value(run, key) for key in keys)


def one_of_each(runs: Sequence[Run]) -> list[Run]:
    """The first run of each setting."""
    keys = settings(runs)
    found: dict[tuple[str, ...], Run] = {}
    for run in runs:
        found.setdefault(values(run, keys), run)
    return list(found.values())


def key_name(key: str) -> str:
    """A key as people say it: `norm` for norm.name."""
    return key.removesuffix(".name") if key in AXIS_KEYS else key


def label(run: Run, keys: Sequence[str]) -> str:
    """What tells this run's setting from the others': `bssn · scale=1.2`."""
    short = [
        value(run, key) if key in AXIS_KEYS else f"{key.rpartition('.')[2]}={value(run, key)}" for key in keys
    ]
    return " · ".join(short) or "all runs"


def protocol(run: Run) -> dict[str, Any]:
    """What metrics of one name must have in common to be compared: the real images."""
    return {
        key: value
        for key, value in run.identity.items()
        if key.startswith("dataset.") and not key.startswith("dataset.prepare.")
    }
