"""Preparation: the same bytes after any kill, nothing left where it fails, damage named."""

import io
import itertools
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import numpy as np
import official_archives
import pytest
import torch
from PIL import Image

from gan_lab.data import array, celeba, workers
from gan_lab.data import folder as folder_of_images
from gan_lab.data.progress import Progress
from gan_lab.errors import UserError

PER_CHUNK = 16

InChild = Callable[[Callable[[], object]], BaseProcess]
Listing = Callable[[Path], dict[str, str]]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_of_images, "IMAGES_PER_CHUNK", PER_CHUNK)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of eleven chunks: few different faces, in an order without a period."""
    path = tmp_path_factory.mktemp("celeba") / "img_align_celeba.zip"
    faces = [official_archives.jpeg(image) for image in official_archives.pictures(20, 218, 178)]
    order = random.Random(0).choices(range(20), k=10 * PER_CHUNK + 5)
    with zipfile.ZipFile(path, "w") as files:
        for number, face in enumerate(order):
            files.writestr(f"img_align_celeba/{number + 1:06d}.jpg", faces[face])
    return path


@pytest.fixture(scope="module")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory, listing: Listing) -> dict[str, str]:
    """The files that a preparation in one process leaves, decoded one by one in this test."""
    folder = tmp_path_factory.mktemp("undisturbed")
    array = celeba.prepare(folder, raw=str(archive), verify=False)
    with zipfile.ZipFile(archive) as files:
        for number in (0, 30, 120, len(array.images) - 1):
            face = Image.open(io.BytesIO(files.read(f"img_align_celeba/{number + 1:06d}.jpg")))
            expected = face.crop((25, 45, 153, 173)).resize((64, 64), Image.Resampling.BICUBIC)
            assert np.array_equal(array.images[number], np.asarray(expected).transpose(2, 0, 1))
    return listing(folder)


def killed(
    in_child: InChild, root: Path, archive: Path, owner: object, name: str, call: int, before: bool
) -> None:
    """Prepare in a process that dies before or after its `call`-th call of `owner.name`."""

    def prepare() -> None:
        original, calls = getattr(owner, name), itertools.count(1)

        def act_or_die(*arguments: object) -> object:
            dies = next(calls) == call
            result = None if dies and before else original(*arguments)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, act_or_die)
        celeba.prepare(root, raw=str(archive), verify=False)

    process = in_child(prepare)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_ten_kills_leave_a_byte_identical_array(
    archive: Path, undisturbed: dict[str, str], tmp_path: Path, in_child: InChild, listing: Listing
) -> None:
    for chunk in range(1, 11):
        # Called once for the archive's checksum, and then after each chunk that was written.
        killed(in_child, tmp_path, archive, Progress, "update", chunk + 1, before=True)
        assert not list(tmp_path.glob("[!.]*"))  # nothing that looks like an array
        assert len(list(tmp_path.glob("*.tmp"))) == 1  # and no litter of those killed before
    celeba.prepare(tmp_path, raw=str(archive), verify=False)
    assert listing(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("owner", "name", "before"),
    [
        (os, "fsync", True),
        (Path, "replace", True),
        (Path, "replace", False),
        (array, "write_json", True),
        (array, "write_json", False),
        (array, "open_array", True),
    ],
)
def test_a_kill_in_the_last_moment_leaves_an_array_or_none(
    archive: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    in_child: InChild,
    listing: Listing,
    owner: object,
    name: str,
    before: bool,
) -> None:
    killed(in_child, tmp_path, archive, owner, name, 1, before)
    for path in tmp_path.glob("*.npy"):
        assert listing(tmp_path)[path.name] == undisturbed[path.name]
    celeba.prepare(tmp_path, raw=str(archive), verify=False)
    assert listing(tmp_path) == undisturbed


def test_two_processes_at_once_make_one_array(
    archive: Path, undisturbed: dict[str, str], tmp_path: Path, in_child: InChild, listing: Listing
) -> None:
    processes = [in_child(lambda: celeba.prepare(tmp_path, raw=str(archive), verify=False)) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert listing(tmp_path) == undisturbed


def test_however_many_processes_decode_they_give_the_same_bytes(
    archive: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    listing: Listing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for count in (1, 3):
        monkeypatch.setattr(workers, "cores", lambda count=count: count)
        root = tmp_path / str(count)
        celeba.prepare(root, raw=str(archive), verify=False)
        assert listing(root) == undisturbed


def test_a_killed_worker_is_one_sentence_and_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, parent = celeba.ZippedImages.decode, os.getpid()

    def decode_or_die(self: celeba.ZippedImages, chunk: list[str]) -> object:
        if "img_align_celeba/000120.jpg" in chunk and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, chunk)

    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(celeba.ZippedImages, "decode", decode_or_die)
    with pytest.raises(UserError, match="was killed"):
        celeba.prepare(tmp_path, raw=str(archive), verify=False)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = celeba.ZippedImages.chunks

    def interrupt(self: celeba.ZippedImages) -> Iterator[list[str]]:
        yield from itertools.islice(chunks(self), 8)
        assert list(tmp_path.glob("*.tmp"))  # it is being written
        raise KeyboardInterrupt

    monkeypatch.setattr(celeba.ZippedImages, "chunks", interrupt)
    with pytest.raises(KeyboardInterrupt):
        celeba.prepare(tmp_path, raw=str(archive), verify=False)
    assert not list(tmp_path.iterdir())


def _memory(_: int) -> str:
    return _in_memory


_in_memory = "as it was imported"


@pytest.mark.parametrize("with_cuda", [True, False])
def test_no_worker_is_a_fork_of_a_process_with_cuda(with_cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's threads and locks do not survive a fork: a worker shares no memory with such a process."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: with_cuda)
    monkeypatch.setattr(sys.modules[__name__], "_in_memory", "of the parent")
    found = set(workers.in_order(_memory, range(5)))
    assert found == ({"as it was imported"} if with_cuda else {"of the parent"})


def test_workers_end_with_the_process_that_they_work_for(
    archive: Path, tmp_path: Path, in_child: InChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    pids, started = os.fdopen(reading), os.fdopen(writing, "wb", buffering=0)

    def note_and_hang(self: celeba.ZippedImages, chunk: list[str]) -> None:
        started.write(b"%d\n" % os.getpid())
        signal.pause()

    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(celeba.ZippedImages, "decode", note_and_hang)
    process = in_child(lambda: celeba.prepare(tmp_path / "data", raw=str(archive), verify=False))
    started.close()  # so that reading ends where the children fail to write
    ends = [os.pidfd_open(int(line)) for line in itertools.islice(pids, 2)]
    assert len(ends) == 2
    pids.close()
    process.kill()
    process.join()
    for end in ends:
        select.select([end], [], [])  # returns when the worker is gone
        os.close(end)


def _is_watched(_: int) -> bool:
    """Whether this worker still waits for its parent's end."""
    return any(thread.name == "end-with-parent" for thread in threading.enumerate())


def _watched_workers(with_cuda: bool) -> list[bool]:
    with mock.patch.object(torch.cuda, "is_initialized", return_value=with_cuda):
        return list(workers.in_order(_is_watched, range(8)))


@pytest.mark.parametrize("with_cuda", [True, False])
def test_workers_of_a_sweep_s_parallel_runs_end_with_their_run_too(with_cuda: bool) -> None:
    """joblib's processes have a way of their own to start others, without a parent to wait for."""
    joblib = pytest.importorskip("joblib")
    found = joblib.Parallel(n_jobs=2, backend="loky")(
        joblib.delayed(_watched_workers)(with_cuda) for _ in range(2)
    )
    assert found == 2 * [8 * [True]]


def test_a_disk_that_fills_up_leaves_nothing(
    archive: Path, tmp_path: Path, in_child: InChild, capfd: pytest.CaptureFixture[str]
) -> None:
    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # of 2 MB
        celeba.prepare(tmp_path, raw=str(archive), verify=False)

    process = in_child(prepare)
    process.join()
    assert process.exitcode == 2
    assert "cannot be written (File too large): free some space" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused_before_any_work(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(celeba.ZippedImages, "decode", None)
    with pytest.raises(UserError, match=r"needs 0\.00203 GB more and its disk has 0\.002 GB free"):
        celeba.prepare(tmp_path, raw=str(archive), verify=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A zip of 40 faces, two of them damaged, one so that the zip's own checksum shows it."""
    path = tmp_path / "img_align_celeba.zip"
    files = official_archives.celeba(tmp_path / "whole.zip")
    (tmp_path / "whole.zip").unlink()
    with zipfile.ZipFile(path, "w") as archive:
        for number, data in enumerate(files):
            data = data[:1000] if number == 6 else data
            archive.writestr(f"img_align_celeba/{number + 1:06d}.jpg", data)
    content = bytearray(path.read_bytes())
    at = content.index(files[20]) + 3000
    content[at : at + 50] = bytes(50)
    path.write_bytes(content)
    return path


def test_damaged_images_are_left_out_counted_and_named(damaged: Path, tmp_path: Path) -> None:
    array = celeba.prepare(tmp_path, verify=False, max_damaged=0.05)  # 2 of 40
    assert array.metadata["damaged"] == 2
    report = json.loads(array.path.with_suffix(".damaged.json").read_text())
    assert list(report) == ["img_align_celeba/000007.jpg", "img_align_celeba/000021.jpg"]
    assert "truncated" in report["img_align_celeba/000007.jpg"]
    assert "CRC" in report["img_align_celeba/000021.jpg"]
    official_archives.celeba(damaged)
    whole = celeba.prepare(tmp_path, verify=False)
    assert np.array_equal(np.delete(whole.images, [6, 20], axis=0), array.images)
    assert not whole.path.with_suffix(".damaged.json").exists()


def test_more_damage_than_the_stated_share_is_refused(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 damaged .* the share dataset\.max_damaged=0\.04 of 40"):
        celeba.prepare(tmp_path, verify=False, max_damaged=0.04)
    assert [path.name for path in tmp_path.iterdir()] == [damaged.name]
