import io
import re

import pytest

from gan_lab.tracking.console import Console

VALUES = {"loss/d": 1.25, "loss/g": -0.5, "metric/fid_digits": 12.5, "grad_norm/d": 3.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(start=0, iterations=40)
    console.log(10, VALUES)
    console.log(20, {"loss/d": 1.0, "loss/g": 0.0})
    console.finish("finished")
    shown, error = capsys.readouterr()
    first, second = shown.splitlines()
    assert re.fullmatch(r"10/40  D 1\.250  G -0\.500  FID digits 12\.500  [\d:]+ left", first)
    assert second.startswith("20/40  D 1.000  G 0.000  FID digits 12.500")  # the last FID that is known
    assert not re.search(r"[\r\x1b]", shown + error)


def test_the_time_left_counts_from_where_the_run_was_resumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    console = Console(start=900, iterations=1000)
    now += 120
    console.log(920, {"loss/d": 1.0})  # 6 seconds each, 80 to go
    assert capsys.readouterr().out.endswith("08:00 left\n")


def test_the_time_that_metrics_will_take_is_left_out_until_they_took_some(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console(start=0, iterations=40, is_judged=True)
    for iteration, values in ((10, {"loss/d": 1.0}), (20, VALUES), (30, {"loss/d": 1.0})):
        console.log(iteration, values)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith(" left, without metrics")
    assert all(line.endswith(" left") for line in others)


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    console = Console(start=10, iterations=40)
    console.log(30, VALUES)
    console.finish("finished")
    last = terminal.getvalue().split("\r")[-1]
    assert "30/40" in last
    assert "75%" in last
    assert "D 1.250  G -0.500  FID digits 12.500" in last
    assert capsys.readouterr().out == ""
