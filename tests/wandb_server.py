"""A stand-in for W&B's server, on the loopback address: keeps what the client sends, and fails on command.

It knows the few questions that a run and a report ask (GraphQL, see wandb_graphql.py; file streams by offset;
uploads of files) and answers nothing to the others.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_graphql
from wandb.sdk.lib import wbauth

from gan_lab.tracking import wandb as tracking

KEY = "0123456789abcdef" * 2 + "01234567"  # of the right form, and nobody's


@dataclass
class StoredRun:
    """One run as the server has it."""

    id: str
    facts: dict[str, Any] = field(default_factory=dict)  # displayName, groupName, tags, config, ...
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    preempting: bool = False

    def lose(self, arrived: int) -> None:
        """As if no more than so many rows had arrived; the summary comes with the rows."""
        del self.history[arrived:]
        self.summary = {**self.history[-1]} if self.history else {}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows without W&B's own columns (of a picture: its path), in the order of their steps."""
        assert [row["_step"] for row in self.history] == list(range(len(self.history)))
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in self.history]


Fault = Callable[[str, str], int | None]  # (kind of request, its body) -> HTTP status of the refusal, or None


class WandbServer:
    """The runs by their ids; `fault` may refuse any request, and `asked` lists the kinds that came."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.views: dict[str, dict[str, Any]] = {}  # reports and workspaces
        self.artifacts: list[dict[str, Any]] = []  # with their files
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.alerts: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.fault: Fault = lambda kind, body: None
        self.lock = threading.Lock()
        server = self

        class Handler(_Handler):
            at = server

        self._handler = Handler
        self._port = 0  # a free one
        self.open()

    def open(self) -> None:
        """Listen, at the same address as before."""
        self._http = _Quiet(("127.0.0.1", self._port), self._handler)
        self._http.daemon_threads = True
        self._port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.is_gone = False

    def close(self) -> None:
        """Go away: connections are refused, and those that are open are closed at their next request."""
        if self.is_gone:
            return
        self.is_gone = True
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def run(self, variables: dict[str, Any]) -> StoredRun:
        name = variables.get("name") or variables.get("run") or variables.get("runName")
        return self.runs.setdefault(str(name), StoredRun(str(name)))

    # --- what the client sends

    def stream(self, run: StoredRun, body: dict[str, Any]) -> None:
        for name, part in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                at = part["offset"]
                assert at <= len(run.history), "a gap in the history"
                run.history[at : at + len(lines)] = lines
            elif name == "wandb-summary.json":
                run.summary = lines[-1]
        run.preempting = run.preempting or bool(body.get("preempting"))
        if body.get("complete"):
            run.exit_code = body["exitcode"]


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, address: Any) -> None:
        """A client that was killed is no error; what is wrong with a request is one."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


class _Handler(BaseHTTPRequestHandler):
    at: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""

    def _answer(self, status: int, content: Any = None) -> None:
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def do_PUT(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.at.is_gone:
            self.close_connection = True
            return None
        part = self.path.strip("/").split("/")
        kind = {"graphql": "graphql", "files": "stream", "put": "upload", "artifact": "upload"}.get(
            part[0], "look"
        )
        with self.at.lock:
            text = body.decode(errors="replace")
            self.at.asked.append(kind)
            if status := self.at.fault(kind, text):
                return self._answer(status, {"error": "on command"})
            if kind == "graphql":
                asked = json.loads(body)
                data = wandb_graphql.answer(self.at, asked["query"], asked.get("variables") or {})
                return self._answer(200, {"data": data})
            if kind == "stream":  # files/<entity>/<project>/<run>/file_stream
                self.at.stream(self.at.runs[part[3]], json.loads(body))
            if part[0] == "artifact":  # artifact/<id>/<name>
                (artifact,) = [one for one in self.at.artifacts if one["id"] == part[1]]
                artifact["files"]["/".join(part[2:])] = body
            elif kind == "upload":
                self.at.runs[part[1]].files["/".join(part[2:])] = body
            return self._answer(200)


@contextmanager
def serving() -> Iterator[WandbServer]:
    server = WandbServer()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def serving_this_process(patch: pytest.MonkeyPatch, netrc: Path) -> Iterator[WandbServer]:
    """A server that the environment names, and a process that knows nothing of another, before and after."""

    def forget() -> None:
        wandb.teardown()
        wbauth.unauthenticate_session(update_settings=False)
        tracking._unusable.clear()

    forget()
    with serving() as at:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_BASE_URL", at.url)
        patch.setenv("NETRC", str(netrc))
        yield at
        forget()
