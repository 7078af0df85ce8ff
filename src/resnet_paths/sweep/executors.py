"""From points to outcomes: in this process, or over any executor with a bounded number of jobs in flight.

`Executor.map` submits all points at once and pickles the function and its context with each chunk: a ResNet and ten
thousand images, a thousand times. Here a job names its payload by a hash, and a worker without it asks for it. The
payload thus travels once to each worker, including those that join late or restart, and it works with executors that
tell nothing about their workers. Twice as many jobs as workers are in flight, so that no worker waits for its next job.

A broken executor ends the sweep. An exception from a job that the function did not raise (Dask's for a killed worker)
means that one of the job's points may be the cause, so its points are retried one by one.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from typing import Any

from . import worker
from .errors import SweepError
from .journal import Outcome
from .worker import Function, Job, Reply, Task

CHUNK_SECONDS = 0.1
"""Fast points travel together, as many as take about this long: far above the cost of a message."""

MOST_IN_CHUNK = 1000
PAUSE_SECONDS = 0.2  # between two looks for new results: short for a human, long for a CPU

Tasks = Iterator[Task | None]
"""Points to compute; None while there are none at the moment but more may follow."""


def in_process(function: Function, context: Any, tasks: Tasks) -> Iterator[list[Outcome]]:
    """Evaluate the points in this process, one by one; yields an empty list while waiting for other processes."""
    for task in tasks:
        if task is None:
            yield []
            time.sleep(PAUSE_SECONDS)
            continue
        with worker.preserved_generators():
            outcome = worker.evaluate(function, context, task)
        yield [outcome]


class Dispatcher:
    """Keeps an executor busy, sends the payload to workers that ask for it, and isolates points that kill a worker."""

    def __init__(self, executor: Executor, payload: bytes, chunk: int | None) -> None:
        self._executor = executor
        self._payload = payload
        self._name = hashlib.sha256(payload).hexdigest()
        self._fixed_chunk = chunk
        self._serial = itertools.count()
        self._in_flight: dict[Future[Reply], Job] = {}
        self._workers: set[str] = set()
        self._waiting: dict[str, int] = {}  # workers without the payload, and the job with which each last asked for it
        self._seconds: float | None = None  # measured time per point
        self.payloads_sent = 0

    def run(self, tasks: Tasks) -> Iterator[list[Outcome]]:
        """Yield outcomes as they arrive, in any order; an empty list if none arrived for a while."""
        more = True
        try:
            while more or self._in_flight:
                while more and len(self._in_flight) < self._max_in_flight():
                    chunk, more = self._next_chunk(tasks)
                    if not chunk:
                        break
                    self._submit(tuple(chunk))
                yield from self._collect()
        finally:
            for future in self._in_flight:
                future.cancel()

    def _max_in_flight(self) -> int:
        """The number of jobs to keep in flight: more than known workers, so that none idles and new ones show up."""
        return 2 * max(len(self._workers) + 1, os.cpu_count() or 1)

    def _next_chunk(self, tasks: Tasks) -> tuple[list[Task], bool]:
        chunk: list[Task] = []
        for task in tasks:
            if task is None:
                return chunk, True
            chunk.append(task)
            if len(chunk) >= self._chunk_size():
                return chunk, True
        return chunk, False

    def _chunk_size(self) -> int:
        if self._fixed_chunk is not None:
            return self._fixed_chunk
        if self._seconds is None:
            return 1
        return max(1, min(MOST_IN_CHUNK, int(CHUNK_SECONDS / max(self._seconds, 1e-9))))

    def _submit(self, tasks: tuple[Task, ...]) -> None:
        payload = self._payload if self._has_too_few_payloads() else None
        self.payloads_sent += payload is not None
        job = Job(next(self._serial), self._name, tasks, payload)
        try:
            self._in_flight[self._executor.submit(worker.run_job, job)] = job
        except (BrokenExecutor, RuntimeError) as error:
            raise _broken(error) from error

    def _has_too_few_payloads(self) -> bool:
        """Whether the payloads on their way are too few for the workers that wait for one.

        Jobs are taken in their order. A worker that asks again has found that another has taken every payload sent
        before: that one may compute for hours, and this one should not ask all that time.
        """
        sent = [job.serial for job in self._in_flight.values() if job.payload is not None]
        asked = sorted(self._waiting.values(), reverse=True)
        return any(len(sent) - bisect_right(sent, last) <= index for index, last in enumerate(asked))

    def _collect(self) -> Iterator[list[Outcome]]:
        if not self._in_flight:
            time.sleep(PAUSE_SECONDS)
            yield []
            return
        done, _ = wait(self._in_flight, timeout=PAUSE_SECONDS, return_when=FIRST_COMPLETED)
        if not done:
            yield []
        for future in done:
            job = self._in_flight.pop(future)
            outcomes = self._outcomes(future, job)
            if outcomes:
                yield outcomes

    def _outcomes(self, future: Future[Reply], job: Job) -> list[Outcome]:
        try:
            reply = future.result()
        except (BrokenExecutor, CancelledError) as error:
            raise _broken(error) from error
        except SweepError:
            raise
        except Exception as error:
            return self._retry_one_by_one(job, error)
        self._workers.add(reply.worker)
        if reply.outcomes is None:
            self._waiting[reply.worker] = max(job.serial, self._waiting.get(reply.worker, 0))
            self._submit(job.tasks)
            return []
        self._waiting.pop(reply.worker, None)
        self._measure(reply.outcomes)
        return list(reply.outcomes)

    def _retry_one_by_one(self, job: Job, error: Exception) -> list[Outcome]:
        """Retry the points of a job that killed its worker one by one, and record the one at fault."""
        if len(job.tasks) == 1:
            return [worker.failure(job.tasks[0], error)]
        for task in job.tasks:
            self._submit((task,))
        return []

    def _measure(self, outcomes: tuple[Outcome, ...]) -> None:
        latest = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        self._seconds = latest if self._seconds is None else 0.7 * self._seconds + 0.3 * latest


def _broken(error: BaseException) -> SweepError:
    return SweepError(
        f"the executor broke ({type(error).__name__}: {error}), perhaps because the system killed a worker that ran "
        "out of memory: the finished points are in the journal; start a new executor, perhaps with fewer workers, "
        "and run the same call again"
    )
