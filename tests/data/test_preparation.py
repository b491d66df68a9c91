"""Preparation: the same bytes however often it is killed, nothing left where it fails, damage named."""

import io
import json
import os
import random
import resource
import select
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import official_archives
import pytest
from PIL import Image

from gan_lab.data import celeba, partial, preparation
from gan_lab.errors import UserError

InChild = Callable[[Callable[[], object]], BaseProcess]
Listing = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of eleven chunks: few different faces, in an order without a period."""
    path = tmp_path_factory.mktemp("celeba") / "img_align_celeba.zip"
    faces = [official_archives.jpeg(image) for image in official_archives.pictures(20, 218, 178)]
    order = random.Random(0).choices(range(20), k=10 * preparation.IMAGES_PER_CHUNK + 50)
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
        for number in (0, 300, 2000, len(array.images) - 1):
            face = Image.open(io.BytesIO(files.read(f"img_align_celeba/{number + 1:06d}.jpg")))
            expected = face.crop((25, 45, 153, 173)).resize((64, 64), Image.Resampling.BICUBIC)
            assert np.array_equal(array.images[number], np.asarray(expected).transpose(2, 0, 1))
    return listing(folder)


def test_ten_kills_leave_a_byte_identical_array(
    archive: Path, undisturbed: dict[str, str], tmp_path: Path, in_child: InChild, listing: Listing
) -> None:
    def prepare(root: Path) -> None:
        celeba.prepare(root, raw=str(archive), verify=False)

    root = tmp_path / "timed"
    begin = time.monotonic()
    in_child(lambda: prepare(root)).join()
    whole = time.monotonic() - begin
    assert listing(root) == undisturbed

    rng, kills, resumed, rounds = random.Random(0), 0, 0, 0
    root = tmp_path / "round0"
    while kills < 10:
        process = in_child(lambda root=root: prepare(root))
        time.sleep(rng.uniform(0, 0.6 * whole))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            journals = list(root.glob(".*.journal"))
            resumed += bool(journals) and len(journals[0].read_text().splitlines()) > 1
        else:
            assert process.exitcode == 0
            assert listing(root) == undisturbed
            rounds += 1
            root = tmp_path / f"round{rounds}"
    prepare(root)
    assert listing(root) == undisturbed
    assert resumed >= 3  # some kills came when there was something to go on from


@pytest.mark.parametrize("moment", ["write_json", "part_path"])
def test_a_kill_in_the_last_moment_loses_nothing(
    archive: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    in_child: InChild,
    listing: Listing,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """Killed between the metadata and the array's name; then no image is decoded a second time."""
    original = partial.write_json

    def write_and_die(path: Path, value: object) -> None:
        original(path, value)
        os.kill(os.getpid(), signal.SIGKILL)

    def die_within(path: Path, value: object) -> None:
        path.with_name(f".{path.name}.{os.getpid()}.tmp").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(partial, "write_json", write_and_die if moment == "part_path" else die_within)
        process = in_child(lambda: celeba.prepare(tmp_path, raw=str(archive), verify=False))
        process.join()
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(celeba.ZippedImages, "decode", None)
    celeba.prepare(tmp_path, raw=str(archive), verify=False)
    assert listing(tmp_path) == undisturbed


def test_a_part_that_was_changed_is_not_gone_on_from(
    archive: Path, undisturbed: dict[str, str], tmp_path: Path, in_child: InChild, listing: Listing
) -> None:
    _interrupt(tmp_path, archive, in_child)
    (part,) = tmp_path.glob(".*.part")
    content = bytearray(part.read_bytes())
    content[5000] ^= 1
    part.write_bytes(content)
    celeba.prepare(tmp_path, raw=str(archive), verify=False)
    assert listing(tmp_path) == undisturbed


def _interrupt(root: Path, archive: Path, in_child: InChild) -> None:
    """Kill a preparation after its third chunk."""

    def prepare() -> None:
        append = partial.Partial.append

        def append_and_die(self: partial.Partial, chunk: object) -> None:
            append(self, chunk)
            if self.chunks == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        partial.Partial.append = append_and_die
        celeba.prepare(root, raw=str(archive), verify=False)

    process = in_child(prepare)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (journal,) = root.glob(".*.journal")
    assert json.loads(journal.read_text().splitlines()[-1])["chunks"] == 3


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
        monkeypatch.setattr(preparation, "cores", lambda count=count: count)
        root = tmp_path / str(count)
        celeba.prepare(root, raw=str(archive), verify=False)
        assert listing(root) == undisturbed


def test_a_killed_worker_is_one_sentence_and_its_work_is_gone_on_with(
    archive: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    listing: Listing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode, parent = celeba.ZippedImages.decode, os.getpid()

    def decode_or_die(self: celeba.ZippedImages, chunk: list[str]) -> object:
        if "img_align_celeba/002000.jpg" in chunk and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "cores", lambda: 2)
        patch.setattr(celeba.ZippedImages, "decode", decode_or_die)
        with pytest.raises(UserError, match="was killed"):
            celeba.prepare(tmp_path, raw=str(archive), verify=False)
    celeba.prepare(tmp_path, raw=str(archive), verify=False)
    assert listing(tmp_path) == undisturbed


def test_workers_end_with_the_process_that_they_work_for(
    archive: Path, tmp_path: Path, in_child: InChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note_and_hang(self: celeba.ZippedImages, chunk: list[str]) -> None:
        (tmp_path / f"{os.getpid()}.pid").touch()
        time.sleep(1000)

    monkeypatch.setattr(preparation, "cores", lambda: 2)
    monkeypatch.setattr(celeba.ZippedImages, "decode", note_and_hang)
    process = in_child(lambda: celeba.prepare(tmp_path / "data", raw=str(archive), verify=False))
    while len(list(tmp_path.glob("*.pid"))) < 2:
        assert process.is_alive()
        time.sleep(0.01)
    workers = [os.pidfd_open(int(path.stem)) for path in tmp_path.glob("*.pid")]
    process.kill()
    process.join()
    for worker in workers:
        ended, _, _ = select.select([worker], [], [], 60)
        assert ended
        os.close(worker)


def test_a_disk_that_fills_up_leaves_nothing(
    archive: Path, tmp_path: Path, in_child: InChild, capfd: pytest.CaptureFixture[str]
) -> None:
    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))  # of 32 MB
        celeba.prepare(tmp_path, raw=str(archive), verify=False)

    process = in_child(prepare)
    process.join()
    assert process.exitcode == 2
    assert "cannot be written (File too large): free some space" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused_before_any_work(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=31_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(celeba.ZippedImages, "decode", None)
    with pytest.raises(UserError, match=r"needs 0\.0321 GB more and its disk has 0\.031 GB free"):
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
