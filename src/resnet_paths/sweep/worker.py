"""The code that runs in a worker: points evaluated one by one, with a function and a context that arrive once.

Everything that could make a value depend on the worker is fixed here: generators are seeded per point, and torch's
dtype and precision are those of the submitting process. Two payloads are kept in memory: studies often alternate
between two sweeps, and more payloads could fill a GPU.
"""

from __future__ import annotations

import json
import os
import platform
import random
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch

from ..graph.preserve import generators_kept
from .errors import SweepError
from .journal import Outcome
from .memory import listening
from .points import Point
from .values import encode_values, plain_values

Function = Callable[[Any, Any, int], Any]
"""A function of a point, the context and the point's seed; it returns a number or a mapping of names to values."""


@dataclass(frozen=True)
class Task:
    """One point to compute."""

    key: bytes
    point: Point
    seed: int


@dataclass(frozen=True)
class Job:
    """A chunk of points, the name of the payload, and the payload itself if a worker asked for it.

    `serial` makes every job unique, because some engines answer equal calls from a cache.
    """

    serial: int
    name: str
    tasks: tuple[Task, ...]
    payload: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """The outcomes of a job; None asks for the payload."""

    worker: str
    outcomes: tuple[Outcome, ...] | None


_loaded: OrderedDict[str, tuple[Function, Any]] = OrderedDict()
_KEEP = 2  # payloads in memory: those of the running sweep and the previous one
_one_at_a_time = threading.RLock()


def pack(function: Function, context: Any) -> bytes:
    """A function and its context as bytes, with the torch settings that affect values."""
    try:
        packed: bytes = cloudpickle.dumps((function, context, settings()))
        return packed
    except Exception as error:
        raise SweepError(
            f"cannot send the function and its context to worker processes ({error}): put plain objects, models and "
            "tensors into `context`, or run without an executor"
        ) from error


def run_job(job: Job) -> Reply:
    """Evaluate the points of a job; this is the function submitted to an executor.

    The points of a process run one at a time even in a thread executor, because global generators are seeded per point
    and a function may modify its model while it runs.
    """
    worker = f"{platform.node()}:{os.getpid()}"
    with _one_at_a_time:
        if job.name not in _loaded:
            if job.payload is None:
                return Reply(worker, None)
            _load(job.name, job.payload)
        _loaded.move_to_end(job.name)
        function, context = _loaded[job.name]
        with preserved_generators():
            return Reply(worker, tuple(evaluate(function, context, task) for task in job.tasks))


def _load(name: str, payload: bytes) -> None:
    try:
        function, context, required = cloudpickle.loads(payload)
    except Exception as error:
        raise SweepError(
            f"a worker cannot load the function and its context ({type(error).__name__}: {error}): "
            "the modules they come from must be importable there, and its devices present"
        ) from error
    current = settings()
    for setting, value in required.items():
        if current[setting] != value:  # even setting the same value can take seconds, because torch loads its compiler
            _SETTERS[setting](value)
    while len(_loaded) >= _KEEP:
        _loaded.popitem(last=False)
    _loaded[name] = function, context


def evaluate(function: Function, context: Any, task: Task) -> Outcome:
    """Evaluate a point: its values as bytes, or a traceback."""
    _seed_everything(task.seed)
    value, error = None, None
    start = time.perf_counter()
    with listening() as notes:
        try:
            value = encode_values(plain_values(function(task.point, context, task.seed)))
        except Exception as caught:
            error = _traceback_of(caught)
    return Outcome(
        task.key, json.dumps(task.point, default=repr), value, error, tuple(notes), time.perf_counter() - start
    )


def failure(task: Task, error: BaseException) -> Outcome:
    """The outcome of a point whose worker was lost."""
    return Outcome(task.key, json.dumps(task.point, default=repr), None, _traceback_of(error), (), 0.0)


def _traceback_of(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines).strip()


def settings() -> dict[str, Any]:
    """The torch settings that affect values, which workers must share."""
    return {
        "default dtype": torch.get_default_dtype(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


_SETTERS: dict[str, Callable[[Any], None]] = {
    "default dtype": torch.set_default_dtype,
    "float32 matmul precision": torch.set_float32_matmul_precision,
    "deterministic algorithms": torch.use_deterministic_algorithms,
}


def _seed_everything(seed: int) -> None:
    """Seed the global generators, so that a function that draws from them returns the same values everywhere."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def preserved_generators() -> AbstractContextManager[None]:
    """A context that restores the caller's global generators."""
    return generators_kept(_initialised_devices())


def _initialised_devices() -> list[int]:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return list(range(torch.cuda.device_count())) if cuda else []
