"""One process to a run directory, whatever became of the process before."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from gan_lab.config import compose, load
from gan_lab.errors import UserError
from gan_lab.run import run
from gan_lab.runs import lock
from gan_lab.runs.directory import RunDirectory
from gan_lab.runs.lock import RunLock

OWNER = """
import sys
from pathlib import Path
from gan_lab.runs.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()  # until it is killed
"""


@contextlib.contextmanager
def owned(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", OWNER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


NOW = 1e9  # by the clock of the file system


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file is of the time NOW, however long a test takes."""
    new_file = tempfile.TemporaryFile

    def of_now(**options: Any) -> IO[bytes]:
        file = new_file(**options)
        os.utime(file.fileno(), (NOW, NOW))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", of_now)


def leave(path: Path, owner: object, seconds_ago: float) -> None:
    """A lock file as an owner left it whose last sign of life is some time ago, by the stopped clock."""
    path.write_text(owner if isinstance(owner, str) else json.dumps(owner))
    os.utime(path, (NOW - seconds_ago,) * 2)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error, RunLock(path):
        pass
    return str(error.value)


def test_a_second_process_is_refused_with_the_first_one_s_host_and_pid(tmp_path: Path) -> None:
    with owned(tmp_path / "lock") as process:
        message = refused(tmp_path / "lock")
    assert f"process {process.pid} on host {socket.gethostname()}" in message


def test_a_run_directory_in_use_costs_exit_status_2(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = load(compose(tiny)).run_directory
    RunDirectory(directory).create()
    with owned(directory / "lock") as process:
        assert run(compose(tiny)).exit_status == 2
        assert run(compose([*tiny, "fresh=true"])).exit_status == 2
        assert [path.name for path in directory.rglob("*") if path.is_file()] == ["lock"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("error: ")
        assert f"process {process.pid} on host {socket.gethostname()}" in line
    assert run(compose(tiny)).exit_status == 0  # its owner was killed


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    with owned(tmp_path / "lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path / "lock"):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_the_lock_can_be_taken_again_after_it_was_left(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path / "lock"):
            pass
    assert not [thread for thread in threading.enumerate() if thread.name == "run-lock"]


@pytest.mark.usefixtures("stopped_clock")
def test_an_owner_on_another_host_is_believed_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    elsewhere = {"host": f"not-{socket.gethostname()}", "pid": 4711}
    leave(path, elsewhere, seconds_ago=lock.STALE - 1)
    message = refused(path)
    assert f"process 4711 on host not-{socket.gethostname()}" in message
    assert json.loads(path.read_text()) == elsewhere
    # Being asked did not make it look alive.
    leave(path, elsewhere, seconds_ago=lock.STALE + 1)
    with RunLock(path):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


@pytest.mark.usefixtures("stopped_clock")
def test_this_host_s_clock_does_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts' clocks differ; the file's times come from one clock, its file system's."""
    leave(tmp_path / "lock", {"host": "elsewhere", "pid": 1}, seconds_ago=0)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert "process 1 on host elsewhere" in refused(tmp_path / "lock")


@pytest.mark.usefixtures("stopped_clock")
def test_a_dead_owner_on_this_host_is_recognized_at_once(tmp_path: Path) -> None:
    leave(tmp_path / "lock", {"host": socket.gethostname(), "pid": os.getpid()}, seconds_ago=0)
    with RunLock(tmp_path / "lock"):
        pass


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("content", ["", "{", "[1]", "\0" * 100, '{"host": 3}'])
def test_a_spoilt_lock_file_of_a_dead_owner_does_no_harm(tmp_path: Path, content: str) -> None:
    leave(tmp_path / "lock", content, seconds_ago=lock.STALE + 1)
    with RunLock(tmp_path / "lock"):
        pass


def test_the_owner_gives_signs_of_life_until_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    beats = threading.Semaphore(0)
    utime = os.utime
    failures = iter([OSError(errno.ESTALE, "stale")])

    def stumbling(descriptor: int) -> None:
        beats.release()
        for failure in failures:
            raise failure
        utime(descriptor)

    monkeypatch.setattr(os, "utime", stumbling)
    path = tmp_path / "lock"
    with RunLock(path):
        utime(path, (0, 0))
        while beats.acquire(blocking=False):
            pass  # of beats that may have come before that
        for _ in range(3):  # the first one fails, which does not end them
            beats.acquire()
        assert path.stat().st_mtime > 0


@pytest.mark.usefixtures("stopped_clock")
def test_without_locks_of_the_file_system_signs_of_life_decide_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", without)
    with owned(tmp_path / "lock") as process:
        assert f"process {process.pid}" in refused(tmp_path / "lock")
    leave(tmp_path / "lock", {"host": socket.gethostname(), "pid": 1}, seconds_ago=lock.STALE + 1)
    with RunLock(tmp_path / "lock"):
        pass


def test_a_directory_set_aside_while_it_is_being_locked_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    flock: Callable[[int, int], None] = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        folder.rename(tmp_path / "kept")
        folder.mkdir()
        (folder / "lock").touch()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert "wait for it" in refused(folder / "lock")


def test_a_place_that_cannot_hold_a_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'} cannot be locked (Not a directory)" in refused(tmp_path / "file" / "lock")
