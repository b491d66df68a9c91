"""Several things in turn, and the weights of the program's kinds of iterations."""

import time

import pytest
import torch

from benchmarks import timing
from benchmarks.program import kind, shares
from benchmarks.timing import BLOCK, in_turn, seconds, seconds_each


def test_all_are_measured_in_every_round_forth_and_back_and_the_first_round_is_thrown_away() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    values = in_turn({name: lambda name=name: measure(name) for name in "abc"}, rounds=3)
    assert "".join(calls) == "abccbaabccba"
    assert values == {"a": [6, 7, 12], "b": [5, 8, 11], "c": [4, 9, 10]}


def test_seconds_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert seconds(lambda: None, torch.device("cpu")) == 2.5


@pytest.mark.parametrize(("device", "times"), [("cuda", BLOCK), ("cpu", 1)])
def test_a_gpu_goes_through_a_block_between_two_synchronizations(
    device: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would wait for the host's calls in every iteration."""
    ticks, calls = iter([10.0, 20.0]), []
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(timing, "synchronize", lambda device: calls.append("synchronize"))
    assert seconds_each(lambda: calls.append("work"), torch.device(device)) == 10 / times
    assert calls == ["synchronize", *["work"] * times, "synchronize"]


@pytest.mark.parametrize(("log_every", "probe_every"), [(50, 100), (50, 70), (3, 7), (1, 5), (4, 1), (10, 0)])
def test_shares_are_the_frequencies_of_the_training_loop(log_every: int, probe_every: int) -> None:
    """Counted over a long run: probed where the probes are due, logged where only the log is."""
    total = 4200
    probed = sum(bool(probe_every) and i % probe_every == 0 for i in range(1, total + 1))
    logged = sum(
        i % log_every == 0 and not (probe_every and i % probe_every == 0) for i in range(1, total + 1)
    )
    expected = {"plain": total - logged - probed, "logged": logged, "probed": probed}
    assert {name: share * total for name, share in shares(log_every, probe_every).items()} == pytest.approx(
        expected, abs=1e-6
    )


def test_a_warm_up_and_all_kinds_are_six_iterations_in_a_row() -> None:
    for first in (1, 7, 13):
        kinds = [kind(first + number) for number in range(6)]
        assert kinds == ["plain", "plain", "logged", "plain", "plain", "probed"]
