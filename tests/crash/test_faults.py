"""Disks that fail, fill up, lie or rot under a checkpoint: the next start has a whole one to go on from."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_disk import BROKEN, FULL, KINDS, LOST, SHORT, FaultyDisk
from kill_and_resume import differences

from gan_lab.config import compose, load
from gan_lab.run import run
from gan_lab.runs import checkpoint
from gan_lab.runs.directory import RunDirectory


def state(number: int) -> dict[str, Any]:
    return {"weights": {"w": torch.full((40,), float(number))}, "number": number}


def save(folder: Path, iteration: int, number: int) -> None:
    checkpoint.save(folder, iteration, state(number), keep_every=100)


def newest(folder: Path) -> int:
    """The number of the state that a start would go on from; every bit of it is as it was saved."""
    loaded = checkpoint.load_newest(folder)
    assert loaded is not None
    assert torch.equal(loaded["weights"]["w"], torch.full((40,), float(loaded["number"])))
    return int(loaded["number"])


# Of the last save: a new iteration's checkpoint with three before it, or another one of the last iteration.
HISTORIES = {"a new one": (1, 2, 3, 4), "one is replaced": (1, 2, 3, 3)}


def operations(folder: Path, iterations: tuple[int, ...]) -> list[str]:
    """What the last save does to the disk."""
    for number, iteration in enumerate(iterations[:-1]):
        save(folder, iteration, number)
    with FaultyDisk(folder).mounted() as disk:
        save(folder, iterations[-1], len(iterations) - 1)
    return disk.operations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("history", HISTORIES)
def test_whatever_fails_while_a_checkpoint_is_written_a_whole_one_is_there(
    tmp_path: Path, history: str, kind: str
) -> None:
    iterations = HISTORIES[history]
    last = len(iterations) - 1
    steps = operations(tmp_path / "clean", iterations)
    assert [step.split()[0] for step in steps].count("write") == 2  # the checkpoint and its checksum
    assert steps.count("rename") == 2
    for fail_at, step in enumerate(steps):
        folder = tmp_path / str(fail_at)
        for number, iteration in enumerate(iterations[:-1]):
            save(folder, iteration, number)
        with FaultyDisk(folder, fail_at, kind).mounted():
            try:
                save(folder, iterations[-1], last)
                failed = False
            except OSError:
                failed = True
        if kind in (FULL, BROKEN):
            assert failed, step
        if kind == SHORT:
            assert not failed, step
        if kind == LOST and step.startswith("write") and step.endswith(".pt"):
            assert failed, "bytes that the disk lost were not noticed"
        assert newest(folder) in ({last - 1, last} if failed or kind == LOST else {last}), step
        # When the disk works again, so does the next save, and nothing is left lying about.
        save(folder, iterations[-1], last)
        assert newest(folder) == last
        assert {path.suffix for path in folder.iterdir()} <= {".pt", ".sha256", ".damaged"}


def test_a_disk_that_stays_full_leaves_what_there_was(tmp_path: Path) -> None:
    for fail_at in range(len(operations(tmp_path / "clean", HISTORIES["one is replaced"]))):
        folder = tmp_path / str(fail_at)
        for iteration in (1, 2, 3):
            save(folder, iteration, iteration)
        with (
            FaultyDisk(folder, fail_at, FULL, persists=True).mounted(),
            pytest.raises(OSError, match="No space left"),
        ):
            save(folder, 3, 4)
        assert newest(folder) in (3, 4)


def flipped(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :]


def test_every_flipped_bit_of_a_checkpoint_is_noticed_and_the_one_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 1)
    save(tmp_path, 2, 2)
    path = tmp_path / "00000002.pt"
    whole, rng = path.read_bytes(), random.Random(0)
    ends = [*range(64), *range(len(whole) - 64, len(whole))]
    for position in {*ends, *rng.sample(range(len(whole)), 400)}:
        path.write_bytes(flipped(whole, position, rng.randrange(8)))
        caplog.clear()
        assert newest(tmp_path) == 1
        assert "00000002.pt is damaged and set aside as 00000002.damaged" in caplog.text
        assert not path.exists()
    assert (tmp_path / "00000002.damaged").read_bytes() != whole


def test_a_truncated_checkpoint_or_a_spoilt_checksum_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, 1, 1)
    save(tmp_path, 2, 2)
    path, checksum = tmp_path / "00000002.pt", tmp_path / "00000002.sha256"
    whole, digest = path.read_bytes(), checksum.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert newest(tmp_path) == 1
    for spoilt in (b"", digest[:-10], flipped(digest, 5, 0), b"\xff\xfe"):
        path.write_bytes(whole)
        checksum.write_bytes(spoilt)
        assert newest(tmp_path) == 1
    path.write_bytes(whole)
    checksum.unlink()
    assert newest(tmp_path) == 1


@pytest.fixture
def small(tiny: list[str]) -> list[str]:
    return [
        *tiny,
        "arch.width=0.03125",
        "train.batch_size=4",
        "train.iterations=12",
        "train.checkpoint_every=3",
    ]


def directory(overrides: list[str]) -> RunDirectory:
    return RunDirectory(load(compose(overrides)).run_directory)


@pytest.fixture
def undisturbed(small: list[str], tmp_path: Path) -> RunDirectory:
    overrides = [*small, f"paths.outputs={tmp_path}/undisturbed"]
    assert run(compose(overrides)).exit_status == 0
    return directory(overrides)


def test_a_run_on_a_failing_disk_says_so_and_goes_on_when_the_disk_works_again(
    small: list[str], undisturbed: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FaultyDisk(tmp_path / "counted").mounted() as disk:
        assert run(compose([*small, f"paths.outputs={tmp_path}/counted"])).exit_status == 0
    began = disk.operations.index("write status.json")
    faults = random.Random(0).sample(range(began, len(disk.operations)), 6)
    statuses = []
    for number, fail_at in enumerate(faults):
        overrides = [*small, f"paths.outputs={tmp_path}/{fail_at}"]
        capsys.readouterr()
        kind = (FULL, BROKEN)[number % 2]
        with FaultyDisk(tmp_path / str(fail_at), fail_at, kind).mounted() as disk:
            status = run(compose(overrides)).exit_status
        statuses.append(status)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        if status:  # the status has a second way to the disk, so that its own failure is none
            assert status == 1
            assert directory(overrides).read_status()["state"] == "failed"
            assert os_error(kind) in directory(overrides).read_status()["reason"]
            assert os_error(kind) in said
        assert run(compose(overrides)).exit_status == 0
        assert not list(differences(directory(overrides), undisturbed)), disk.operations[fail_at]
    assert 1 in statuses


def os_error(kind: str) -> str:
    return {FULL: "No space left on device", BROKEN: "Input/output error"}[kind]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of few bytes; its size is changed by mounting it again."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    if not mount(folder, "200k"):
        pytest.skip("this process may not mount file systems")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(folder: Path, size: str, options: str = "") -> bool:
    if shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_a_full_disk_stops_a_run_which_goes_on_when_there_is_room(
    small: list[str], undisturbed: RunDirectory, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = sum(path.stat().st_size for path in undisturbed.root.rglob("*") if path.is_file())
    overrides = [*small, f"paths.outputs={small_disk}"]
    states = []
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9):
        assert mount(small_disk, f"{int(share * used)}", ",remount")
        capsys.readouterr()
        status = run(compose(overrides)).exit_status
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert "No space left on device" in said
        states.append(directory(overrides).read_status().get("state"))
        assert (status, states[-1]) in ((1, "failed"), (2, None), (2, states[-1]))
    assert "failed" in states
    assert mount(small_disk, "64m", ",remount")
    assert run(compose(overrides)).exit_status == 0
    assert not list(differences(directory(overrides), undisturbed))
