"""Progress with an ETA from measured points: a bar on terminals, a line in notebooks, sparse lines in logs.

rich draws the bar. Its own notebook output needs widgets and its output to a file is one line at the end, of no help to
somebody who looks into the log of a job of ten hours; hence the other two. The ETA counts only points computed in this
run: those found in the journal took no time and would promise too much.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

from ..imports import first_import

LOG_SECONDS = 30.0
T = TypeVar("T")


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep stands. Counts are of points whose results are written for good.

    Attributes:
        name: the function's.
        total: all points.
        finished: with values, from now or before.
        failed: with an error, from now or before.
        computed: finished or failed in this run.
        taken: being computed by other processes that share the journal.
        elapsed: seconds of this run.
        notes: what points said for the first time since the last report, such as halved batches.
    """

    name: str
    total: int
    finished: int = 0
    failed: int = 0
    computed: int = 0
    taken: int = 0
    elapsed: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def open(self) -> int:
        """Points without a result."""
        return self.total - self.finished - self.failed

    @property
    def eta(self) -> float | None:
        """Seconds to go at the rate of the points computed so far; None before the first.

        Example:
            >>> SweepProgress("f", total=100, finished=60, computed=10, elapsed=5.0).eta
            20.0
        """
        return self.open * self.elapsed / self.computed if self.computed else None

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.finished + self.failed} of {self.total} points"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.taken:
            parts.append(f"{self.taken} elsewhere")
        parts.append(duration(self.elapsed))
        if self.open and self.eta is not None:
            parts.append(f"{duration(self.eta)} to go")
        return ", ".join(parts)


Report = Callable[[SweepProgress], None]


def tracked(items: Iterable[T], total: int, name: str, report: Report) -> Iterator[T]:
    """The items one by one, with word of how many are done: for work that needs no journal and no other process.

    Yields:
        The items.

    Example:
        >>> list(tracked("ab", 2, "letters", lambda state: print(state.finished, "of", state.total)))
        1 of 2
        2 of 2
        ['a', 'b']
    """
    start = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        elapsed = time.monotonic() - start
        report(SweepProgress(name, total, finished=done, computed=done, elapsed=elapsed))


def duration(seconds: float) -> str:
    """A length of time for reading.

    Example:
        >>> duration(0.25), duration(75), duration(7320)
        ('0.2 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def reporter(progress: bool | Report) -> AbstractContextManager[Report]:
    """The way of showing progress that suits where this runs: nothing, a function of the caller's, or the screen."""
    if progress is False:
        return nullcontext(lambda state: None)
    if progress is not True:
        return nullcontext(progress)
    if _in_notebook():
        return nullcontext(NotebookLine())
    if sys.stderr.isatty():
        return Bar()
    return nullcontext(LogLines(sys.stderr))


class LogLines:
    """A line every half minute, for sweeps that take longer."""

    def __init__(self, stream: TextIO, every: float = LOG_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._every = every
        self._clock = clock
        self._next = clock() + every

    def __call__(self, state: SweepProgress) -> None:
        """Shows the state."""
        for note in state.notes:
            print(f"{state.name}: {note}", file=self._stream, flush=True)
        if self._clock() >= self._next and state.open:
            self._next = self._clock() + self._every
            print(state, file=self._stream, flush=True)


class NotebookLine:
    """One line of a notebook's output, replaced as the sweep goes on."""

    def __init__(self) -> None:
        with first_import("IPython.display"):
            from IPython.display import display

        self._handle: Any = display({"text/plain": ""}, raw=True, display_id=True)
        self._notes: list[str] = []

    def __call__(self, state: SweepProgress) -> None:
        """Shows the state."""
        self._notes += state.notes
        text = "\n".join([str(state), *self._notes])
        self._handle.update({"text/plain": text}, raw=True)


class Bar:
    """A bar on a terminal."""

    def __init__(self) -> None:
        with first_import("rich.console"):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

        columns = BarColumn(), TextColumn("{task.description}", markup=False)
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)

    def __enter__(self) -> Report:
        self._progress.start()
        self._task = self._progress.add_task("", total=None)
        return self._show

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def _show(self, state: SweepProgress) -> None:
        for note in state.notes:
            self._progress.console.print(f"{state.name}: {note}", markup=False, highlight=False)
        done = state.finished + state.failed
        self._progress.update(self._task, total=state.total, completed=done, description=str(state))


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
