"""Drawing ahead: a thread makes the next while one is used, and nothing else changes."""

import contextlib
import threading

import pytest
import torch
from test_gan import differing, tensors
from toys import BATCH, IMAGES, toy_gan

from gan_lab.data import Batches
from gan_lab.training.ahead import Ahead


def test_the_next_is_made_by_a_thread_and_any_other_at_once() -> None:
    made_by: dict[int, str] = {}
    seventh_is_made = threading.Event()

    def make(number: int) -> int:
        made_by[number] = threading.current_thread().name
        if number == 7:
            seventh_is_made.set()
        return number * number

    ahead = Ahead(make)
    here = threading.current_thread().name
    with ahead.running():
        assert ahead(6) == 36
        assert seventh_is_made.wait()
        assert (ahead(7), ahead(3), ahead(4)) == (49, 9, 16)
    assert made_by[6] == made_by[3] == here
    assert made_by[7] != here
    assert made_by[4] != here
    assert ahead(5) == 25  # outside there is no thread, and nothing is left of it
    assert made_by[5] == here
    assert all(not thread.name.startswith("next-inputs") for thread in threading.enumerate())


def test_the_thread_ends_with_the_block_however_that_ends() -> None:
    for error in (KeyboardInterrupt, ValueError):
        ahead = Ahead(lambda number: number)
        with contextlib.suppress(error), ahead.running():
            ahead(1)
            raise error
        assert all(not thread.name.startswith("next-inputs") for thread in threading.enumerate())


def test_an_error_of_the_thread_is_raised_where_its_number_is_asked_for() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise OSError("the disk is gone")
        return number

    ahead = Ahead(make)
    with ahead.running():
        assert [ahead(1), ahead(2)] == [1, 2]
        assert ahead(9) == 9  # what nobody asks for, nobody hears of
        ahead(2)
        with pytest.raises(OSError, match="the disk is gone"):
            ahead(3)
        with pytest.raises(OSError, match="the disk is gone"):
            ahead(3)


@pytest.mark.parametrize("resident_bytes", [0, 1e12])
def test_what_is_drawn_ahead_is_what_is_drawn_at_once(resident_bytes: float) -> None:
    """From memory and from the disk, one after the other, again, and back, as a repetition draws."""
    gan = toy_gan()
    gan.batches = Batches(IMAGES, [BATCH] * gan.n_dis, gan.seed, torch.device("cpu"), resident_bytes)
    order = (1, 2, 3, 2, 3, 4, 9, 1)
    expected = [tensors(gan.draw(iteration)) for iteration in order]
    with gan._host_inputs.running():
        drawn = [tensors(gan.draw(iteration)) for iteration in order]
    for ours, theirs in zip(drawn, expected, strict=True):
        assert differing(ours, theirs) == []


def test_only_what_takes_its_time_is_drawn_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    read = Batches.read

    def noted(self: Batches, iteration: int) -> object:
        names.add(threading.current_thread().name)
        return read(self, iteration)

    monkeypatch.setattr(Batches, "read", noted)
    for resident_bytes, threads in ((1e12, 1), (0.0, 2)):
        names.clear()
        gan = toy_gan()
        gan.batches = Batches(IMAGES, [BATCH] * gan.n_dis, gan.seed, torch.device("cpu"), resident_bytes)
        with gan.drawing_ahead():
            gan.draw(1), gan.draw(2)
        assert len(names) == threads
