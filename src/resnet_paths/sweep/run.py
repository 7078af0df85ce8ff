"""The sweep: points -> executor -> journal -> result.

For small jobs, a loop over points and a dictionary would do. This is for runs of hours on shared machines. Each point
is claimed before it is computed, so that several processes divide the points of one journal. It is written soon after,
so that a kill costs little. The result is read back from the journal at the end, so that it is the same whoever
computed the points.

A write takes a few milliseconds because the disk must confirm it. At five writes per second fast points hardly wait
for the disk, and a kill loses little; 16 MB bounds the memory of points with large arrays. Points are claimed in lots
that take between a quarter of a second and a second to compute: smaller lots spend more time on transactions than on
work, larger ones leave other processes idle at the end.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import checked
from ..warned import warn
from . import worker
from ._provenance import SweepProvenance, describe
from .errors import JournalError, SweepError, SweepInterrupted
from .executors import Dispatcher, Tasks, in_process
from .fingerprints import fingerprint
from .journal import Journal, Outcome, State
from .points import Point, plain_point, point_key, point_seed
from .progress import Report, SweepProgress, duration, reporter
from .result import SweepResult
from .values import Value, columns
from .worker import Function, Task

FLUSH_SECONDS = 0.2
FLUSH_BYTES = 16 << 20
SCAN = 1000
LOT_SECONDS = (0.25, 1.0)


@checked
def sweep(
    function: Function,
    points: Iterable[Any],
    *,
    context: Any = None,
    journal: Path | str | None = None,
    executor: Executor | None = None,
    seed: int = 0,
    version: str | None = None,
    retry_failed: bool = False,
    progress: bool | Report = True,
    chunk: int | None = None,
) -> SweepResult:
    """Evaluate a function at many independent points, and store each result as soon as it is computed.

    A second run with the same journal computes only what is missing. Values of an earlier run are reused only if
    nothing that affects them has changed: the code of the function, the context (weights, data), the point, the seed,
    and torch's default dtype and precision. Order, executor and number of workers do not matter.

    Args:
        function: called as `function(point, context, seed)`; returns a number, or a mapping of names to numbers,
            strings, arrays and tensors. Python's, NumPy's and torch's global generators are seeded for each point.
        points: plain values (see `plain_point`), or a lazy sequence such as `grid(...)`.
        context: large objects that all points need, such as a model and data; sent once to each worker.
        journal: file that stores finished points; several sweeps and processes may share it. None: memory.
        executor: any `concurrent.futures.Executor`; None runs in this process. Threads of one process take turns, since
            a function may change the model that they share.
        seed: seed of the sweep, from which each point derives its own.
        version: replaces the fingerprint of the function's code; change it when the meaning of the code changes.
        retry_failed: recompute points that failed before.
        progress: whether to show progress on stderr, or a function called with `SweepProgress`.
        chunk: number of points per job of the executor; None: as many as take a tenth of a second.

    Returns:
        The values of all points in the given order, including those from the journal.

    Raises:
        JournalError: the journal is damaged or not writable.
        FingerprintError: the function or the context has no fingerprint, so that changes would go unnoticed.
        SweepError: a point is not plain, or the workers cannot run the function.
        SweepInterrupted: Ctrl-C was pressed.

    Cost: below 1 ms per point besides the function. At any moment, at most the work of a fifth of a second, or one
        point
    if it takes longer, is not yet in the journal. Memory does not grow with the number of points until the result is
    assembled.

    Example:
        >>> def power(point, context, seed):
        ...     return {"power": context ** point["n"]}
        >>> sweep(power, [{"n": 0}, {"n": 5}], context=2, progress=False).values["power"]
        array([ 1, 32])
    """
    _validate(seed, chunk)
    sequence = points if isinstance(points, Sequence) else tuple(points)
    origin = _provenance(function, context, seed, version)
    store = Journal(None if journal is None else Path(journal), origin.fingerprint, asdict(origin))
    try:
        run = _Run(store, _Feed(store, sequence, seed), origin.function, len(sequence))
        if retry_failed:
            store.forget_failures()
        with reporter(progress) as report:
            run.drive(_outcomes(function, context, executor, chunk, run.feed), report)
        result = _result(store, sequence, origin)
    finally:
        store.close()
    if executor is None and fingerprint(context) != origin.context:
        warn(_CONTEXT_CHANGED)
    if progress is True:
        print(_closing_message(result, run.state, retry_failed), file=sys.stderr)
    return result


@checked
def unfinished(
    function: Function,
    points: Iterable[Any],
    *,
    context: Any = None,
    journal: Path | str,
    seed: int = 0,
    version: str | None = None,
) -> list[int]:
    """The points of a sweep whose values its journal does not hold yet, for callers that plan the remaining time.

    Args:
        function: as for :func:`sweep`, like all others.
        points: the points.
        context: large objects that all points need.
        journal: the file.
        seed: seed of the sweep.
        version: replaces the fingerprint of the function's code.

    Returns:
        Indices of the points that :func:`sweep` would compute or has to wait for.

    Cost: a fingerprint of the context, and a look into the journal for each point.

    Example:
        >>> import tempfile
        >>> def double(point, context, seed):
        ...     return 2 * point
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     before = unfinished(double, [1, 2], journal=folder + "/journal")
        ...     _ = sweep(double, [2], journal=folder + "/journal", progress=False)
        ...     before, unfinished(double, [1, 2], journal=folder + "/journal")
        ([0, 1], [0])
    """
    if not Path(journal).exists():
        return list(range(len(list(points))))
    origin = _provenance(function, context, seed, version)
    store = Journal(Path(journal), origin.fingerprint, asdict(origin))
    try:
        stored = [store.read(point_key(plain_point(point))) for point in points]
    finally:
        store.close()
    return [index for index, outcome in enumerate(stored) if outcome is None or outcome[0] is None]


_CONTEXT_CHANGED = (
    "the function has changed its context (a model in train mode updates its running statistics): values depend on the "
    "order of the points, and the next run will not find these in the journal. Restore whatever the function changes."
)


def _validate(seed: int, chunk: int | None) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SweepError(f"expected an integer as seed, got {seed!r}")
    if chunk is not None and chunk < 1:
        raise SweepError(f"expected at least one point per chunk, got {chunk}")


def _provenance(function: Function, context: Any, seed: int, version: str | None) -> SweepProvenance:
    unwrapped = function
    while isinstance(unwrapped, functools.partial):
        unwrapped = unwrapped.func
    named = unwrapped if hasattr(unwrapped, "__qualname__") else type(unwrapped)
    name = f"{getattr(named, '__module__', '')}.{named.__qualname__}"
    code = fingerprint(function) if version is None else f"{name}, version {version}"
    context_fingerprint = fingerprint(context)
    determining = (code, context_fingerprint, seed, sorted(worker.settings().items()))
    return describe(name, fingerprint(determining), code, context_fingerprint, seed)


def _outcomes(
    function: Function, context: Any, executor: Executor | None, chunk: int | None, feed: _Feed
) -> Iterator[list[Outcome]]:
    if executor is None:
        return in_process(function, context, feed.tasks())
    return Dispatcher(executor, worker.pack(function, context), chunk).run(feed.tasks())


class _Feed:
    """The open points, claimed from the journal in lots of about half a second of work."""

    def __init__(self, journal: Journal, points: Sequence[Any], seed: int) -> None:
        self._journal = journal
        self._points = points
        self._seed = seed
        self._lot = 1
        self.finished = 0
        self.failed = 0
        self.taken = 0

    def tasks(self) -> Tasks:
        """Yield claimed points; points claimed by other processes are retried until they are finished."""
        taken: list[int] = []
        for indices in _batches(range(len(self._points))):
            taken += yield from self._claimed(indices)
            self.taken = len(taken)
        while taken:
            yield None
            still_taken: list[int] = []
            for indices in _batches(taken):
                still_taken += yield from self._claimed(indices)
            taken = still_taken
            self.taken = len(taken)

    def _claimed(self, indices: Sequence[int]) -> Generator[Task, None, list[int]]:
        keyed = [(index, plain_point(self._points[index])) for index in indices]
        keys = [point_key(point) for _, point in keyed]
        taken = []
        position = 0
        while position < len(keys):
            start = time.monotonic()
            states = self._journal.claim(keys[position:], self._lot)
            for (index, point), key, state in zip(keyed[position:], keys[position:], states, strict=False):
                if state is State.MINE:
                    with self._journal.computing(key):
                        yield Task(key, point, point_seed(self._seed, key))
                elif state is State.TAKEN:
                    self._journal.check_not_within(key)
                    taken.append(index)
                else:
                    self.finished += state is State.DONE
                    self.failed += state is State.FAILED
            position += len(states)
            self._adapt(states.count(State.MINE), time.monotonic() - start)
        return taken

    def _adapt(self, claimed: int, seconds: float) -> None:
        if claimed == self._lot and seconds < LOT_SECONDS[0]:
            self._lot = min(SCAN, 2 * self._lot)
        elif claimed and seconds > LOT_SECONDS[1]:
            self._lot = max(1, self._lot // 2)


def _batches(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), SCAN):
        yield indices[start : start + SCAN]


class _Run:
    """Writes outcomes to the journal a few times per second and reports progress."""

    def __init__(self, journal: Journal, feed: _Feed, name: str, total: int) -> None:
        self.feed = feed
        self._journal = journal
        self._buffer: list[Outcome] = []
        self._bytes = 0
        self._start = self._flushed = time.monotonic()
        self._reported: set[str] = set()
        self._finished = self._failed = 0
        self.state = SweepProgress(name.rpartition(".")[2], total)

    def drive(self, outcomes: Iterator[list[Outcome]], report: Report) -> None:
        """Consume all outcomes; whatever interrupts this, computed points are written first."""
        try:
            with closing(outcomes) as stream:  # type: ignore[type-var]
                for arrived in stream:
                    self._buffer += arrived
                    self._bytes += sum(len(outcome.value or b"") for outcome in arrived)
                    if not arrived or self._due():
                        self._flush(report)
            self._flush(report)
        except JournalError as error:
            raise JournalError(f"{error} {len(self._buffer)} points were computed and could not be written.") from error
        except KeyboardInterrupt:
            self._flush(report)
            raise SweepInterrupted(self._how_to_resume()) from None
        except BaseException:
            self._flush(report)
            raise

    def _due(self) -> bool:
        return time.monotonic() - self._flushed >= FLUSH_SECONDS or self._bytes >= FLUSH_BYTES

    def _flush(self, report: Report) -> None:
        if self._buffer:
            self._journal.finish(self._buffer)
        written, self._buffer, self._bytes = self._buffer, [], 0
        self._flushed = time.monotonic()
        self._failed += sum(outcome.error is not None for outcome in written)
        self._finished += sum(outcome.error is None for outcome in written)
        new_notes = [
            note
            for note in dict.fromkeys(n for outcome in written for n in outcome.notes)
            if note not in self._reported
        ]
        self._reported.update(new_notes)
        self.state = SweepProgress(
            name=self.state.name,
            total=self.state.total,
            finished=self.feed.finished + self._finished,
            failed=self.feed.failed + self._failed,
            computed=self._finished + self._failed,
            taken=self.feed.taken,
            elapsed=self._flushed - self._start,
            notes=tuple(new_notes),
        )
        report(self.state)

    def _how_to_resume(self) -> str:
        state = self.state
        done = f"stopped with {state.finished + state.failed} of {state.total} points finished"
        if self._journal.path is None:
            return f"{done}; they are lost because there is no journal: pass journal='FILE' to be able to resume"
        return f"{done}; they are stored in {self._journal.path}: run the same call again to resume"


def _result(journal: Journal, points: Sequence[Any], origin: SweepProvenance) -> SweepResult:
    """Read every point back from the journal, so that a value is the same in the run that computed it and later."""
    total = len(points)
    rows: list[dict[str, Value] | None] = []
    plain: list[Point] = []
    errors: dict[int, str] = {}
    notes: dict[int, tuple[str, ...]] = {}
    finished, seconds = np.zeros(total, bool), np.full(total, np.nan)
    for index, given in enumerate(points):
        point = plain_point(given)
        plain.append(point)
        stored = journal.read(point_key(point))
        if stored is None:
            raise JournalError(
                f"point {index} of {total} is missing from the journal: was it changed by another program?"
            )
        values, error, seconds[index], messages = stored
        rows.append(values)
        finished[index] = values is not None
        if messages:
            notes[index] = messages
        if values is None:
            errors[index] = error or ""
    return SweepResult(tuple(plain), columns(rows), finished, errors, notes, seconds, origin)


def _closing_message(result: SweepResult, state: SweepProgress, retried: bool) -> str:
    words = f"{state.name}: {result.summary()}; {state.computed} computed now in {duration(state.elapsed)}"
    if result.errors and not retried:
        words += "\nsweep(..., retry_failed=True) recomputes the failed points; result.errors has their tracebacks"
    return words
