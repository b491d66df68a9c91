import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gan_lab.files import replacing, write_json, write_text


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_content_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old and longer")
    write_text(path, "new ✓")
    assert path.read_text(encoding="utf-8") == "new ✓"
    assert files(path.parent) == ["file.txt"]


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"σ": [1, 2.5, None, True], "nested": {"a": "b"}}
    write_json(tmp_path / "value.json", value)
    assert json.loads((tmp_path / "value.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "file.txt"
    if existed:
        path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise ValueError("out of ideas")

    with pytest.raises(ValueError, match="out of ideas"):
        fail()
    assert files(tmp_path) == (["file.txt"] if existed else [])
    assert not existed or path.read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def in_a_process(path: Path, script: str, umask: int = 0o022) -> int:
    """Run `script` with `path` and `replacing` at hand; returns the exit status."""
    head = f"import os, signal\nfrom pathlib import Path\nos.umask({umask})\n"
    head += f"from gan_lab.files import replacing\npath = Path({str(path)!r})\n"
    return subprocess.run([sys.executable, "-c", head + script], check=False).returncode


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    script = (
        "with replacing(path) as temporary:\n"
        "    temporary.write_text('half of the ne')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert in_a_process(path, script) == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")  # what the dead process left is in nobody's way
    assert path.read_text() == "new"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    versions = [str(k) * 100_000 for k in range(10)]
    write_text(path, versions[0])
    whole, seen = set(versions), set()

    def read() -> None:
        while seen < whole:  # until it has met every version, or something else
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    while reader.is_alive():
        for version in versions:
            write_text(path, version)
    assert seen == whole


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, expected: int) -> None:
    path = tmp_path / "file.txt"
    script = (
        "with replacing(path) as temporary:\n"
        "    os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors makes files\n"
    )
    assert in_a_process(path, script, umask) == 0
    assert path.stat().st_mode & 0o777 == expected
