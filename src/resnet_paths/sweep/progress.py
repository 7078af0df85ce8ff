"""Progress with an ETA from measured points: a bar on terminals, a line in notebooks, occasional lines in logs.

rich draws the bar. Its notebook output needs widgets, and its output to a file is a single line at the end, which does
not help somebody who reads the log of a ten-hour job; hence the other two. The ETA counts only points computed in this
run, because points from the journal took no time and would make it too optimistic.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

from ..imports import first_import

LOG_SECONDS = 30.0  # between lines of a log: quick sweeps print none, ten hours print 1200
T = TypeVar("T")


@dataclass(frozen=True)
class SweepProgress:
    """The progress of a sweep. Counts refer to points whose results are durably written.

    Attributes:
        name: name of the function.
        total: number of points.
        finished: number of points with values, from this run or earlier.
        failed: number of points with an error, from this run or earlier.
        computed: number of points finished or failed in this run.
        taken: number of points being computed by other processes that share the journal.
        elapsed: seconds since this run started.
        notes: new messages from points since the last report, such as halved batches.
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
        """The number of points without a result."""
        return self.total - self.finished - self.failed

    @property
    def eta(self) -> float | None:
        """Remaining seconds at the rate of this run; None before its first point.

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
    """Yield the items and report how many are done, for work without a journal or other processes.

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
    """A duration in words: the two largest units, without one that is zero.

    Example:
        >>> duration(0.25), duration(75), duration(7320)
        ('0.2 s', '1 min 15 s', '2 h 2 min')
        >>> duration(59.97), duration(180), duration(7210)
        ('1 min', '3 min', '2 h')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def reporter(progress: bool | Report) -> AbstractContextManager[Report]:
    """The progress display for this environment: none, the caller's function, or one on screen."""
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
    """A line every half minute."""

    def __init__(self, stream: TextIO, every: float = LOG_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._every = every
        self._clock = clock
        self._next = clock() + every

    def __call__(self, state: SweepProgress) -> None:
        """Show the state."""
        for note in state.notes:
            print(f"{state.name}: {note}", file=self._stream, flush=True)
        if self._clock() >= self._next and state.open:
            self._next = self._clock() + self._every
            print(state, file=self._stream, flush=True)


class NotebookLine:
    """One line of notebook output, which is updated in place."""

    def __init__(self) -> None:
        with first_import("IPython.display"):
            from IPython.display import display

        self._handle: Any = display({"text/plain": ""}, raw=True, display_id=True)
        self._notes: list[str] = []

    def __call__(self, state: SweepProgress) -> None:
        """Show the state."""
        self._notes += state.notes
        text = "\n".join([str(state), *self._notes])
        self._handle.update({"text/plain": text}, raw=True)


class Bar:
    """A progress bar on a terminal."""

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
