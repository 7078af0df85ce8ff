import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_paths.sweep import SweepProgress, progress, sweep


def state(done: int, **more: Any) -> SweepProgress:
    return SweepProgress("loss", total=100, finished=done, **{"computed": done, "elapsed": done * 2.0, **more})


def test_the_eta_counts_measured_points_alone() -> None:
    assert state(0).eta is None
    assert state(25).eta == 150
    resumed = SweepProgress("loss", total=100, finished=60, failed=10, computed=20, elapsed=40.0)
    assert resumed.eta == 60
    assert str(resumed) == "loss: 70 of 100 points, 10 failed, 40.0 s, 1 min to go"
    assert str(state(100)) == "loss: 100 of 100 points, 3 min 20 s"
    assert "5 elsewhere" in str(state(10, taken=5))


def test_logs_have_a_line_now_and_then_and_no_bar() -> None:
    stream, now = io.StringIO(), [0.0]
    lines = progress.LogLines(stream, every=30, clock=lambda: now[0])
    for second in range(100):
        now[0] = float(second)
        lines(state(second))
    written = stream.getvalue()
    assert [line.split(",")[0] for line in written.splitlines()] == [f"loss: {n} of 100 points" for n in (30, 60, 90)]
    assert "\r" not in written
    assert "\x1b" not in written


def test_a_sweep_into_a_pipe_draws_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    sweep(lambda point, context, seed: point, range(5))
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "5 of 5 points finished, 0 failed; 5 computed now" in err
    assert "\x1b" not in err
    sweep(lambda point, context, seed: point, range(5), progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    reporter = progress.reporter(True)
    assert isinstance(reporter, progress.Bar)
    with reporter as report:
        report(state(50, notes=("a batch of [4] was halved",)))
    text = terminal.getvalue()
    assert "loss: 50 of 100 points" in text
    assert "a batch of [4] was halved" in text
    assert "━" in text


def test_a_notebook_has_a_line_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))

    class ZMQInteractiveShell:
        pass

    def display(data: dict, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        return handle

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=ZMQInteractiveShell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    sweep(lambda point, context, seed: point, range(5))
    assert shown[-1].startswith("<lambda>: 5 of 5 points")


def test_a_terminal_shell_of_ipython_is_not_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    class TerminalInteractiveShell:
        pass

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=TerminalInteractiveShell))
    assert not progress._in_notebook()
