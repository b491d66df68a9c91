"""When a sweep's launching process is signalled while it waits for its workers' checkpoints."""

import signal
import types
from collections.abc import Callable

import pytest

from gan_lab import signals
from gan_lab.sweep import launcher


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A launcher with workers that are done when they were asked three times; what it did."""
    did: list[str] = []
    launch = types.SimpleNamespace(stop=lambda: did.append("no further run"))
    monkeypatch.setattr(launcher, "_sweep", types.SimpleNamespace(launch=launch, jobs=None))
    monkeypatch.setattr(launcher, "_signals", signals.StopSignals())
    monkeypatch.setattr(launcher.time, "sleep", lambda seconds: None)
    return did


def workers(did: list[str], in_between: Callable[[], None]) -> Callable[[object], bool]:
    def signal_workers(launch: object) -> bool:
        did.append("asked")
        in_between()
        return did.count("asked") < 3

    return signal_workers


@pytest.mark.parametrize(("again", "times"), [(float("inf"), 3), (0.0, 1)])
def test_only_a_second_wish_ends_the_waiting(
    again: float, times: int, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "AGAIN_S", again)
    monkeypatch.setattr(
        launcher, "_signal_workers", workers(asked, lambda: launcher._stop(signal.SIGINT, None))
    )
    with pytest.raises(launcher.Ended):
        launcher._stop(signal.SIGTERM, None)
    assert asked == ["no further run"] + ["asked"] * times
