"""Weights & Biases: config, metrics and sample grids of each run, online or in offline files."""

import contextlib
import hashlib
import json
import logging
import math
import os
import secrets
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gan_lab.tracking.base import RunInfo, reason
from gan_lab.tracking.history import History
from gan_lab.tracking.ledger import CONSTANT, Event, Ledger, events
from gan_lab.tracking.outages import Outages

log = logging.getLogger(__name__)

# wandb's telemetry of itself prints its errors and waits at the exit for a server that is gone.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

LOOK_TIMEOUT = 5  # seconds for the server's first sign of life
CONNECTION_TIMEOUT = 30  # seconds to start a run there before it is kept offline
UPLOAD_TIMEOUT = 120  # seconds for what is not uploaded yet, at a run's end; in a sweep, for all its waits
LEAST_WAIT = 10  # seconds, at a run's end, where a sweep has used up its own and the server answers
QUIET = 5  # seconds of such a wait of which nothing is said
LEDGER = "wandb-sent.txt"
AXES = ("dataset", "arch", "norm", "loss", "optimizer")
LATER = "scripts/sync_wandb.py uploads what is missing"

_unusable: dict[str, str] = {}  # outside sweeps: servers that failed this process once, and why


def effective_mode(mode: str) -> str:
    """What W&B is to do for `tracker.mode`, without ever asking for a key.

    `auto` follows WANDB_MODE and `wandb offline`; where they say nothing, or say online, it is online with
    credentials (an environment variable or what `wandb login` stored) and offline without. `online` without
    credentials is offline, with a warning.
    """
    import wandb

    settings = wandb.Settings(silent=True)
    if mode != "auto":
        settings.mode = mode
    configured = wandb.setup(settings).settings.mode
    wandb.termsetup(settings, _relay)
    if configured != "online":
        return configured
    try:
        problem = "" if wandb.login(prompt=False, verify=False) else "nobody is logged in, see `wandb login`"
    except Exception as error:  # credentials that cannot be any
        problem = reason(error)
    if problem and mode == "online":
        log.warning("W&B cannot be used online (%s): this run is kept offline.", problem)
    return "offline" if problem else "online"


class _Relay:
    """What wandb would print goes to the run's log, and that its uploads have stopped to the terminal too."""

    refusals = 0

    def info(self, message: str) -> None:
        log.debug(message)

    def warning(self, message: str) -> None:
        if "Fatal error while uploading" in message:
            self.refusals += 1
            log.warning("W&B takes no further uploads. The local record is whole; %s.", LATER)
        else:
            log.info(message)

    error = warning


_relay = _Relay()


def _silence(url: str, seconds: float) -> str:
    """Why a server gives no sign of life; empty where it answers anything at all."""
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=seconds).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"cannot be reached ({getattr(error, 'reason', error)})"
    return ""


class WandbTracker:
    """One W&B run for one training run. The local record is the truth, and W&B is made to agree with it.

    Online, all that the record holds and W&B lacks is logged first, whatever was killed, offline or refused
    before; an offline directory holds the record from its beginning. W&B's own steps only count what was
    logged: the x-axis of everything is `iteration`. A W&B run that contradicts the record is tagged
    `abandoned`, and another takes its place.

    `live` is false where a record is uploaded after its training, with W&B's files in `files`.
    """

    def __init__(
        self,
        run: RunInfo,
        mode: str = "auto",
        project: str = "gan-lab",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | str | None = None,
        notes: str | None = None,
        job_type: str = "train",
        artifact: bool = False,
        live: bool = True,
        files: Path | None = None,
    ) -> None:
        import wandb

        wandb.finish(exit_code=1)  # a run of this process that failed may still be open
        if tags is None:
            tags = [run.config[axis]["name"] for axis in AXES if axis in run.config]
        self._info, self._live, self._wandb, self._artifact = run, live, wandb, artifact
        self._history = History()
        self._summary: dict[str, Any] = {}
        self._generator: Path | None = None
        self._real: Path | None = run.directory / "real.png"  # goes with the first grid of samples
        self._refusals = _relay.refusals
        self.is_whole = True  # at the end: whether nothing was refused
        self._outages = Outages(UPLOAD_TIMEOUT)
        self._has: set[str] = set()  # keys of what W&B has, or has been given
        agent = os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID")
        is_new = not (run.directory / LEDGER).exists()
        self._ledger = Ledger(run.directory / LEDGER, run.id, (live and agent) or "")
        self._options: dict[str, Any] = {
            "name": run.name,
            "dir": str(files or run.directory),
            "project": project,
            "entity": entity,
            "group": group or run.group or None,
            "job_type": job_type,
            "tags": tags.split(",") if isinstance(tags, str) else list(tags),
            "notes": notes,
            "config": dict(run.config),
            "resume": "allow",
            "settings": wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                finish_timeout=UPLOAD_TIMEOUT,  # where this process is left with a run that is open
            ),
        }
        self._start(effective_mode(mode))
        if self._online and live and is_new:
            self._tag_predecessor()
        self.url = self._run.url if self._online else ""
        if self.url and live:
            print(f"W&B: {self.url}", flush=True)

    # --- start

    def _start(self, mode: str) -> None:
        _set_aside(self._info.directory / "wandb")  # this start logs what they hold
        self._run = self._open(mode)
        record = list(
            events(
                self._info.directory / "metrics.jsonl", self._info.directory / "samples", self._info.iteration
            )
        )
        if self._online:
            has = self._ledger.agree(
                self._run.starting_step, (event.key for event in record), self._info.iteration
            )
            if has is None:
                log.warning("W&B has other rows of this run than its record: it gets a new run there.")
                self.tag_abandoned()
                self._run.finish(exit_code=1)
                self._ledger.start_over()
                self._run, has = self._open(mode), set()
            self._has = has
            self._send_files_again(record)
        for event in record:
            self._log(event)

    def _send_files_again(self, record: Sequence[Event]) -> None:
        """Upload the pictures whose rows W&B has, and whose files a kill may have kept from it.

        They are named as wandb names them, by key, step and the first digits of the SHA-256.
        """
        steps, real = self._ledger.unmarked(), self._real
        for event in record:
            if not event.grid:
                continue
            pictures, real = {"samples": event.grid, "real": real}, None
            step = steps.get(event.key)
            for name, path in pictures.items():
                if step is None or event.key not in self._has or not path or not path.exists():
                    continue
                content = path.read_bytes()
                digest = hashlib.sha256(content).hexdigest()[:20]
                copy = Path(self._run.dir) / "media" / "images" / f"{name}_{step}_{digest}.png"
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
                self._run.save(str(copy), base_path=self._run.dir, policy="now")

    def _open(self, mode: str) -> Any:
        """The W&B run, its step metric defined; offline where the server cannot be used."""
        import wandb

        self._server = wandb.setup().settings.base_url
        known = _unusable.get(self._server) or self._outages.problem(self._server)
        if mode == "online" and known:
            mode = self._without(known)
        begin, left = time.monotonic(), self._outages.left(self._server)
        if mode == "online" and (problem := _silence(self._server, min(LOOK_TIMEOUT, left))):
            mode = self._without(problem, time.monotonic() - begin)
        timeout = min(CONNECTION_TIMEOUT, left) if mode == "online" else CONNECTION_TIMEOUT
        self._options["settings"].init_timeout = timeout
        try:
            run = wandb.init(mode=mode, id=self._ledger.id, **self._options)  # type: ignore[arg-type]
        except Exception as error:
            if mode != "online":
                raise
            refused = any(f"error {status}" in str(error) for status in (401, 403))
            problem = "refuses this API key, see `wandb login --relogin`" if refused else "cannot be used"
            mode = self._without(f"{problem} ({reason(error)})", time.monotonic() - begin)
            wandb.teardown()  # the start that failed would hold on to the run's id
            self._options["settings"].init_timeout = CONNECTION_TIMEOUT
            run = wandb.init(mode=mode, id=self._ledger.id, **self._options)  # type: ignore[arg-type]
        wandb.termsetup(wandb.Settings(silent=True), _relay)  # which a start may have reset
        self._online = mode == "online"
        run.define_metric("*", step_metric="iteration")
        return run

    def _without(self, problem: str, waited: float | None = None) -> str:
        """The mode instead of online, with a warning; `waited`: the seconds that it took to find out."""
        if waited is not None:
            self._remember(problem, waited)
        if not self._live:
            raise ConnectionError(f"W&B {problem}")
        log.warning("W&B %s: this run is kept offline; %s.", problem, LATER)
        return "offline"

    def _remember(self, problem: str, waited: float) -> None:
        """For other runs: the server has failed."""
        if not self._outages.are_shared:
            _unusable[self._server] = problem
            return
        with contextlib.suppress(OSError):
            self._outages.add(self._server, problem, waited)

    def _tag_predecessor(self) -> None:
        """Tag the run that `fresh=true` set aside for this one, which would pass for another seed."""
        root = self._info.directory
        kept = sorted(root.parent.glob(f"{root.name}.kept*/{LEDGER}"), key=lambda path: path.stat().st_mtime)
        if not kept:
            return
        directory = kept[-1].parent
        old = kept[-1].read_text(encoding="utf-8").split("\n")[0]
        settings = self._options["settings"].model_copy(update={"reinit": "create_new"})
        options = {**self._options, "name": "/".join(directory.parts[-4:]), "config": None, "tags": None}
        options |= {"resume": "must", "settings": settings, "group": None, "notes": None, "job_type": None}
        finished = _status(directory).get("state") == "finished"
        try:
            run = self._wandb.init(mode="online", id=old, **options)
            _tag_abandoned(run)
            _within(CONNECTION_TIMEOUT, lambda: run.finish(exit_code=0 if finished else 1))
        except Exception as error:  # W&B never had it, or does not answer
            log.info("the run before this one is not tagged in W&B: %s", reason(error))

    # --- what is logged

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._log(Event(iteration, finite))

    def log_samples(self, iteration: int, grid: Path) -> None:
        self._log(Event(iteration, grid=grid))

    def _log(self, event: Event) -> None:
        row = {name: math.nan if value is None else value for name, value in event.values.items()}
        self._history.add({"iteration": event.iteration, **event.values})
        curves = {name: value for name, value in row.items() if not CONSTANT.match(name)}
        figures = {name: seen.last for name, seen in self._history.metrics.items()} | self._history.best
        before = self._summary
        self._summary = {**before, **row, **figures}
        if event.key not in self._has and (curves or event.grid):
            self._has.add(event.key)
            if self._online:
                self._ledger.add(event.key)
            self._run.log({"iteration": event.iteration, **curves, **self._pictures(event)})
        if event.grid:
            self._real = None
        changed = {k: v for k, v in self._summary.items() if k not in curves and before.get(k) != v}
        if changed or any(name.startswith("metric/") for name in curves):
            self._run.summary.update(changed | figures)

    def _pictures(self, event: Event) -> dict[str, Any]:
        """The event's grid, and next to the first one of the run the real images."""
        real = self._real if self._real and self._real.exists() else None
        paths = {"samples": event.grid, "real": real} if event.grid else {}
        return {name: self._wandb.Image(str(path)) for name, path in paths.items() if path}

    # --- the end

    def tag_abandoned(self) -> None:
        """Mark the run in W&B as one that another has replaced."""
        _tag_abandoned(self._run)

    def finish(self, state: str) -> None:
        status = _status(self._info.directory)
        known = {"python", "torch", "gan_lab", "git_revision", "device"} & status.keys()
        self._run.config.update({name: status[name] for name in known}, allow_val_change=True)
        why = str(status.get("reason") or "")
        details = {key: status[key] for key in ("diverged_at", "quantity", "layer") if key in status}
        self._run.summary.update(self._summary | {"state": state, "reason": why} | details)
        if state == "interrupted":
            self._run.mark_preempting()
        if state == "diverged" and self._live and self._online:
            self._run.alert(f"{self._info.name} diverged", why or state, level="ERROR")
        self._generator = self._info.directory / "generator.safetensors" if state == "finished" else None
        try:
            self._wait(0 if state == "finished" else 1)
        except KeyboardInterrupt:
            _wait_no_more()
            log.warning("W&B's uploads were stopped; %s.", LATER)
            if not self._live:
                raise

    def abandon(self) -> None:
        """Leave the run as it is, without a word to the server."""
        _wait_no_more()

    def _wait(self, exit_code: int) -> None:
        """Wait until all is uploaded, UPLOAD_TIMEOUT seconds at most."""
        begin, problem = time.monotonic(), ""
        left = self._outages.left(self._server)
        if self._online:
            problem = _silence(self._server, min(LOOK_TIMEOUT, max(left, 1)))
        seconds = left if problem else max(left, LEAST_WAIT)
        said = f"waiting up to {seconds:.0f} s, Ctrl-C stops that"
        if problem and seconds:
            print(f"W&B {problem}: {said}", file=sys.stderr, flush=True)

        def speak() -> None:
            if not problem:
                print(f"W&B has not taken all yet: {said}", file=sys.stderr, flush=True)

        try:
            _within(begin + seconds - time.monotonic(), lambda: self._upload(exit_code), speak)
        except TimeoutError as error:
            _wait_no_more()
            waited = time.monotonic() - begin
            self._remember(problem or f"took no uploads ({reason(error)})", waited)
            if not self._live:
                raise
            log.warning("W&B did not take all in %.0f s; %s.", waited, LATER)

    def _upload(self, exit_code: int) -> None:
        if self._artifact and self._generator and self._generator.exists():
            self._log_generator(self._generator)
        self._run.finish(exit_code=exit_code)
        self.is_whole = self.is_whole and _relay.refusals == self._refusals
        if self._online and self.is_whole:
            self._ledger.mark()

    def _log_generator(self, weights: Path) -> None:
        """The final generator as an artifact; W&B makes no second version of what it has already."""
        figures = {name: seen.last for name, seen in self._history.metrics.items()}
        generator = self._wandb.Artifact(f"generator-{self._ledger.id}", "model", metadata=figures)
        generator.add_file(str(weights), policy="immutable", skip_cache=True)
        try:
            logged = self._run.log_artifact(generator)
            if self._online:
                logged.wait()
        except Exception as error:
            self.is_whole = False
            log.warning("W&B did not take the generator (%s); %s.", reason(error), LATER)


def _status(directory: Path) -> dict[str, Any]:
    """What a run's status.json says; nothing where it cannot be read."""
    try:
        status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _tag_abandoned(run: Any) -> None:
    run.tags = tuple(dict.fromkeys([*(run.tags or ()), "abandoned"]))


def _within(
    seconds: float, work: Callable[[], None], after_a_while: Callable[[], None] = lambda: None
) -> None:
    """Do `work` in a thread; raises what it raises, and TimeoutError where it takes longer.

    `after_a_while` is called once where it takes QUIET seconds.
    """
    end = time.monotonic() + seconds
    raised: list[BaseException] = []

    def catching() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=catching, name="wandb-uploads", daemon=True)
    thread.start()
    thread.join(max(0.0, min(seconds, QUIET)))
    if thread.is_alive() and seconds > QUIET:
        after_a_while()
        thread.join(max(0.0, end - time.monotonic()))
    if thread.is_alive():
        raise TimeoutError(f"not done in {seconds:.0f} s")
    if raised:
        raise raised[0]


def _wait_no_more() -> None:
    """Exit without wandb's own process, which tries on and would be waited for; it ends with this one."""
    import wandb

    with contextlib.suppress(Exception):  # wandb has no public way
        wandb.setup().assert_service()._cleanup()


def _set_aside(folder: Path) -> None:
    """Move offline directories to `superseded/`: `wandb sync` would log what they hold a second time."""
    for old in folder.glob("offline-run-*"):  # named by the second, so that two may be called alike
        (folder / "superseded").mkdir(exist_ok=True)
        old.rename(folder / "superseded" / f"{old.name}-{secrets.token_hex(3)}")
