"""What a server that fails costs a run: prints docs/tracking.md's table.

`python tests/tracking/failing_servers.py` trains a tiny run for each way to fail, each in a process of its
own, against a stand-in for W&B's server; `--only NAME ...` takes some. It takes minutes, most of which are
waiting. `start` is how long W&B takes of a run's start, `a row` the longest that a row or a grid keeps the
training, `exit` the time from the end of the last iteration to the end of the process.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ITERATIONS, MIDDLE, BACK = 40, 20, 10  # iterations, an iteration, seconds


def refuse(server: Any, status: int, kinds: Sequence[str] = ("graphql", "stream", "upload")) -> None:
    server.fault = lambda kind, body: status if kind in kinds else None


def silence(server: Any) -> None:
    """Accept and never answer."""
    server.fault = lambda kind, body: threading.Event().wait()


def back_later(server: Any) -> None:
    server.close()
    threading.Timer(BACK, server.open).start()


def interrupt_later(server: Any) -> None:
    server.close()
    threading.Timer(BACK, os.kill, (os.getpid(), signal.SIGINT)).start()


Action = Callable[[Any], None]

# name: (what the server does, when: before the run, at a request, or at an iteration)
CASES: dict[str, tuple[Action, str | int]] = {
    "answers": (lambda server: None, "before"),
    "refuses connections": (lambda server: server.close(), "before"),
    "has a name that does not resolve": (lambda server: None, "unknown"),
    "accepts and never answers": (silence, "before"),
    "answers 500": (lambda server: refuse(server, 500), "before"),
    "refuses the key (401)": (lambda server: refuse(server, 401), "before"),
    "goes away after the run's start": (lambda server: server.close(), 1),
    "goes away in the middle": (lambda server: server.close(), MIDDLE),
    "goes away at the end": (lambda server: server.close(), ITERATIONS),
    "goes away in the middle and comes back": (back_later, MIDDLE),
    "goes away at the end and comes back after 10 s": (back_later, ITERATIONS),
    "goes away at the end, Ctrl-C after 10 s": (interrupt_later, ITERATIONS),
    "never answers from the middle on": (silence, MIDDLE),
    "answers 500 from the middle on": (lambda server: refuse(server, 500), MIDDLE),
    "refuses from the middle on (401)": (lambda server: refuse(server, 401), MIDDLE),
}


def child(name: str, folder: Path, data: Path) -> None:
    """Train with a server that fails in this way; the times go to a file."""
    from wandb_server import KEY, WandbServer

    from gan_lab.config import compose
    from gan_lab.run import run
    from gan_lab.tracking.wandb import WandbTracker
    from gan_lab.training.gan import Gan

    action, moment = CASES[name]
    server = WandbServer()
    os.environ |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url, "NETRC": str(folder / "netrc")}
    if moment == "unknown":
        os.environ["WANDB_BASE_URL"] = "http://wandb.invalid"
    if moment == "before":
        action(server)
    times: dict[str, float] = {}

    def timed(method: str) -> None:
        original = getattr(WandbTracker, method)

        def wrapper(self: WandbTracker, *arguments: Any, **named: Any) -> Any:
            begin = time.monotonic()
            try:
                return original(self, *arguments, **named)
            finally:
                times[method] = max(times.get(method, 0.0), time.monotonic() - begin)

        setattr(WandbTracker, method, wrapper)

    for method in ("__init__", "log", "log_samples"):
        timed(method)
    update = Gan.update

    def updating(self: Gan, *arguments: Any) -> Any:
        values = update(self, *arguments)
        if self.iteration == moment:
            action(server)
        times["last"] = time.monotonic()
        (folder / "times.json").write_text(json.dumps(times))
        return values

    Gan.update = updating  # type: ignore[method-assign]
    options = [
        "experiment=tiny",
        "metrics=none",
        "device=cpu",
        f"train.iterations={ITERATIONS}",
        "tracker=wandb",
    ]
    paths = [f"paths.data={data}", f"paths.outputs={folder / 'outputs'}"]
    status = run(compose([*options, *paths, "tracker.mode=online"])).exit_status
    sys.exit(status)


def measure(name: str, data: Path) -> str:
    """The table's row for one way to fail."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        folder = Path(path)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        environment |= {f"WANDB_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "CACHE", "DATA")}
        command = [sys.executable, __file__, "--child", name, "--folder", path, "--data", str(data)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        ended = time.monotonic()
        if done.returncode:
            raise SystemExit(f"{name}: status {done.returncode}\n{done.stdout}{done.stderr}")
        times = json.loads((folder / "times.json").read_text())
    said = [line.removeprefix("WARNING: ") for line in done.stderr.splitlines() if "W&B" in line]
    words = re.sub(r"\bfor run \S+:", "for the run:", "; ".join(said)).replace("|", "/") or "–"
    row = max(times.get("log", 0.0), times.get("log_samples", 0.0))
    return f"| {name} | {times['__init__']:.1f} s | {row:.2f} s | {ended - times['last']:.1f} s | {words} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=3, help="how many at a time")
    parser.add_argument("--data", type=Path, help="where the prepared digits are (default: made anew)")
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.folder, given.data)
    with tempfile.TemporaryDirectory() as made:
        data = given.data or Path(made)
        rows = [measure(given.only[0], data)]  # which prepares the digits
        with ThreadPoolExecutor(given.jobs) as pool:
            rows += pool.map(lambda name: measure(name, data), given.only[1:])
    print("| a server that | start | a row | exit | said |\n| --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
