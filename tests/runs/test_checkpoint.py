import contextlib
import errno
import hashlib
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_lab.errors import UserError
from gan_lab.runs.checkpoint import load, load_newest, save

KEEP = 100


def state(value: float) -> dict[str, Any]:
    return {"generator": {"weight": torch.full((3, 2), value)}, "record_length": 17}


def numbers(folder: Path, suffix: str = ".pt") -> list[int]:
    return sorted(int(path.stem) for path in folder.glob(f"*{suffix}"))


def newest(folder: Path) -> tuple[int, float]:
    """The iteration of the newest checkpoint, and the value that its weight was filled with."""
    loaded = load_newest(folder)
    assert loaded is not None
    return loaded["iteration"], loaded["generator"]["weight"][0, 0].item()


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    saved = {"generator": {"weight": weight}, "g_optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}
    save(tmp_path, 7, {**saved, "record_length": 17}, KEEP)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert (loaded["iteration"], loaded["record_length"]) == (7, 17)
    assert torch.equal(loaded["generator"]["weight"], weight)
    assert loaded["g_optimizer"] == saved["g_optimizer"]


def test_an_empty_folder_and_none_at_all_hold_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "missing") is None


def test_the_last_two_roll_and_some_stay_for_good(tmp_path: Path) -> None:
    for iteration in range(40, 440, 20):
        save(tmp_path, iteration, state(iteration), KEEP)
    assert numbers(tmp_path) == [100, 200, 300, 380, 400, 420]
    assert numbers(tmp_path, ".sha256") == numbers(tmp_path)
    assert newest(tmp_path) == (420, 420)


def test_the_newest_is_the_one_of_the_most_iterations(tmp_path: Path) -> None:
    for iteration in (99_999_999, 100_000_001):  # one digit more than the names are padded to
        save(tmp_path, iteration, state(iteration % 10), KEEP)
    assert newest(tmp_path) == (100_000_001, 1)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [flip_a_bit, cut_short, empty])
def test_of_a_damaged_one_the_one_before_is_taken(
    tmp_path: Path, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for iteration in (10, 20):
        save(tmp_path, iteration, state(iteration), KEEP)
    spoil(tmp_path / "00000020.pt")
    assert newest(tmp_path) == (10, 10)
    assert "00000020.pt is damaged" in caplog.text
    assert (tmp_path / "00000020.damaged").exists()
    save(tmp_path, 20, state(21), KEEP)  # the same iteration once more, now whole
    assert newest(tmp_path) == (20, 21)


def test_one_without_its_checksum_is_not_trusted(tmp_path: Path) -> None:
    """As a copy that was interrupted leaves it."""
    for iteration in (10, 20):
        save(tmp_path, iteration, state(iteration), KEEP)
    (tmp_path / "00000020.sha256").unlink()
    assert newest(tmp_path) == (10, 10)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest() + "\n")


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "code was run")


def test_no_code_is_run(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"format": 1, "iteration": 10, "generator": Payload(tmp_path / "trace")}, buffer)
    for content in (buffer.getvalue(), pickle.dumps(Payload(tmp_path / "trace"))):
        write(tmp_path / "00000010.pt", content)
        with pytest.raises(UserError, match="safely"):
            load_newest(tmp_path)
    assert not (tmp_path / "trace").exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"format": 99, "iteration": 10}, buffer)
    write(tmp_path / "00000010.pt", buffer.getvalue())
    with pytest.raises(UserError, match=r"format 99.*fresh=true"):
        load(tmp_path / "00000010.pt")


@contextlib.contextmanager
def files_written_by(writing: Callable[[Callable[[bytes], int], bytes], int]) -> Iterator[None]:
    """Inside the block, each write to a file goes through `writing`, with the real write and its content."""

    class File(io.FileIO):
        def write(self, content: Any) -> int:
            return writing(super().write, bytes(content))

    opened = Path.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Path, "open", lambda path, mode="r", **k: (File if mode == "wb" else opened)(path, mode, **k)
        )
        yield


def test_a_full_disk_leaves_every_older_one(tmp_path: Path) -> None:
    for iteration in (10, 20):
        save(tmp_path, iteration, state(iteration), KEEP)

    def refuse(write: Callable[[bytes], int], content: bytes) -> int:
        write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with files_written_by(refuse), pytest.raises(OSError, match="No space left"):
        save(tmp_path, 30, state(30), KEEP)
    assert numbers(tmp_path) == [10, 20]
    assert newest(tmp_path) == (20, 20)
    assert not list(tmp_path.glob(".*"))  # nor does half of it take up room


def test_one_that_reads_differently_is_an_error_while_the_others_are_there(tmp_path: Path) -> None:
    """A broken disk: what is written is not what comes back."""
    for iteration in (10, 20):
        save(tmp_path, iteration, state(iteration), KEEP)

    def garble(write: Callable[[bytes], int], content: bytes) -> int:
        return write(content[:-1] + bytes([content[-1] ^ 1]))

    with files_written_by(garble), pytest.raises(OSError, match="reads differently"):
        save(tmp_path, 30, state(30), KEEP)
    assert {10, 20} <= set(numbers(tmp_path))
    assert newest(tmp_path) == (20, 20)
