"""Kills runs with SIGKILL while they log to W&B, resumes and syncs them, and compares W&B with their records.

`python tests/crash/kill_and_sync.py --kills 20 --seed 0` ends with status 0 if a stand-in for W&B's server
holds every row, iteration and sample grid of each run's local record once, its best and last figures and its
state: after each run that was killed, resumed and finished, and after some of the kills, when nothing but
scripts/sync_wandb.py came after. Runs are online, offline, or take turns. No clock decides when a kill comes:
a process dies some calls after the drawn call of a function.
"""
# ruff: noqa: E402  # what the tests share is not installed

import argparse
import collections
import functools
import os
import random
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from kill_and_resume import DEMO, Plan, at_call, directory_of, in_child, train, working_folder
from wandb_agreement import assert_agrees
from wandb_server import KEY, WandbServer, serving

from gan_lab.commands.sync_wandb import main as sync
from gan_lab.config import compose
from gan_lab.report.runs import UNKNOWN
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RUNNING, RunDirectory
from gan_lab.tracking import JsonLines
from gan_lab.tracking.ledger import Ledger
from gan_lab.tracking.wandb import LEDGER, WandbTracker

MOST_STARTS = 6  # of one run that may be killed
MODES = (("online",), ("offline",), ("online", "offline"))  # of a run's starts in turn

# Where a kill is aimed: (moment, owner, name of the function, its most calls in an undisturbed run, calls and
# returns after it begins within which the kill comes).
AIMS = (
    ("W&B's start", WandbTracker, "_start", 1, 3_000),
    ("a line of the record", JsonLines, "log", 9, 60),
    ("a row for W&B", WandbTracker, "log", 9, 400),
    ("a grid for W&B", WandbTracker, "log_samples", 4, 400),
    ("what W&B was given", Ledger, "add", 12, 40),
    ("a checkpoint", checkpoint, "save", 5, 2_000),
    ("W&B's finish", WandbTracker, "finish", 1, 3_000),
)


def the_run(server: WandbServer, directory: RunDirectory) -> str:
    """The run's id, which must be the only one in the server that nothing has replaced."""
    identity = (directory.root / LEDGER).read_text(encoding="utf-8").split("\n")[0]
    others = set(server.runs) - {identity}
    assert not others, f"the server holds {others} too"
    return identity


def check(server: WandbServer, directory: RunDirectory, log: Path) -> None:
    """Sync twice, then compare the server's run with the record and the status."""
    state = directory.read_status().get("state", UNKNOWN)
    state = "killed" if state == RUNNING else state  # nothing was written any more
    for _ in range(2):
        status = in_child(lambda: sync([str(directory.root)]), log)
        assert status == 0, f"syncing ended with status {status}"
    stored = server.runs[the_run(server, directory)]
    assert_agrees(stored, directory.root)
    assert stored.summary.get("state") == state, f"its state is {stored.summary.get('state')}, not {state}"
    assert stored.exit_code == (0 if state == "finished" else 1), f"its exit code is {stored.exit_code}"


def torment(folder: Path, kills: int, seed: int) -> tuple[collections.Counter[str], int, int]:
    """Kill runs `kills` times in all; returns how often at which moment, the runs, and the checks.

    Raises AssertionError where the server disagrees with a record.
    """
    rng = random.Random(seed)
    killed, runs, checks = collections.Counter[str](), 0, 0
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    while killed.total() < kills:
        modes, starts = MODES[runs % len(MODES)], 0
        paths = [f"paths.data={folder / 'data'}", f"paths.outputs={folder / str(runs)}"]
        with serving() as server:
            os.environ |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
            status = -signal.SIGKILL
            while status == -signal.SIGKILL:
                mode, plan = modes[starts % len(modes)], None
                config = compose([*DEMO, *paths, "tracker=wandb", f"tracker.mode={mode}"])
                starts += 1
                if killed.total() < kills and starts < MOST_STARTS:
                    moment, owner, name, calls, longest = rng.choice(AIMS)
                    number, after = rng.randint(1, calls), rng.randint(0, longest)
                    plan = Plan(moment, functools.partial(at_call, owner, name, number, after))
                status = in_child(functools.partial(train, config, plan), log)
                if status == -signal.SIGKILL:
                    assert plan, "killed by somebody else"
                    killed[plan.moment] += 1
                    directory = directory_of(config)
                    if rng.random() < 0.3 and directory.metrics.exists():
                        check(server, directory, log)
                        checks += 1
            assert status == 0, f"run {runs} ended with status {status}:\n{log.read_text()[-3000:]}"
            check(server, directory_of(config), log)
            runs, checks = runs + 1, checks + 1
    return killed, runs, checks


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill runs that log to W&B, resume, sync, compare.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    given = parser.parse_args()
    with working_folder(given.folder) as folder:
        try:
            killed, runs, checks = torment(folder, given.kills, given.seed)
        except AssertionError as error:
            print(f"W&B disagrees with the record: {error}")
            return 1
    for moment, count in killed.most_common():
        print(f"{count:5} kills at {moment}")
    print(f"{killed.total()} kills of {runs} runs: W&B held what the records hold at all {checks} checks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
