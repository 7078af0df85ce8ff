"""What runs in a worker: points evaluated one by one, with a function and a context that arrive once.

Everything that could make a value depend on the worker is set here: the generators are seeded for each point, torch's
types and precision are those of the process that asked. Two payloads are kept, since a study often goes back and forth
between two sweeps, and more could fill a GPU.
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
"""A function of a point, the context and the point's seed, that returns a number or a mapping of names to values."""


@dataclass(frozen=True)
class Task:
    """One point to be computed."""

    key: bytes
    point: Point
    seed: int


@dataclass(frozen=True)
class Job:
    """Some points, the name of what evaluates them, and that itself if the worker asked for it.

    `serial` makes every job different: some engines answer equal calls from a cache.
    """

    serial: int
    name: str
    tasks: tuple[Task, ...]
    payload: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """The outcomes of a job, or None: "send me the payload"."""

    worker: str
    outcomes: tuple[Outcome, ...] | None


_loaded: OrderedDict[str, tuple[Function, Any]] = OrderedDict()
_KEEP = 2  # payloads in memory: the running sweep's and the one before it
_one_at_a_time = threading.RLock()


def pack(function: Function, context: Any) -> bytes:
    """A function and its context as bytes, with the settings of torch that decide values."""
    try:
        packed: bytes = cloudpickle.dumps((function, context, settings()))
        return packed
    except Exception as error:
        raise SweepError(
            f"cannot send the function and its context to worker processes ({error}): put plain objects, models and "
            "tensors into `context`, or run without an executor"
        ) from error


def run_job(job: Job) -> Reply:
    """Evaluates a job's points: what an executor is asked to do.

    The points of a process run one at a time, also in an executor of threads: the global generators are seeded for
    each point, and a function may change the model that it was given while it runs.
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
        function, context, wanted = cloudpickle.loads(payload)
    except Exception as error:
        raise SweepError(
            f"a worker cannot load the function and its context ({type(error).__name__}: {error}): "
            "the modules they come from must be importable there, and its devices present"
        ) from error
    present = settings()
    for setting, value in wanted.items():
        if present[setting] != value:  # setting it anew can take seconds, as torch loads its compiler
            _SETTERS[setting](value)
    while len(_loaded) >= _KEEP:
        _loaded.popitem(last=False)
    _loaded[name] = function, context


def evaluate(function: Function, context: Any, task: Task) -> Outcome:
    """One point: its values as bytes, or the traceback of what went wrong."""
    _seed_everything(task.seed)
    value, error = None, None
    start = time.perf_counter()
    with listening() as notes:
        try:
            value = encode_values(plain_values(function(task.point, context, task.seed)))
        except Exception as caught:
            error = _described(caught)
    return Outcome(
        task.key, json.dumps(task.point, default=repr), value, error, tuple(notes), time.perf_counter() - start
    )


def failure(task: Task, error: BaseException) -> Outcome:
    """A point whose worker was lost."""
    return Outcome(task.key, json.dumps(task.point, default=repr), None, _described(error), (), 0.0)


def _described(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines).strip()


def settings() -> dict[str, Any]:
    """The settings of torch that decide values, and that a worker must share."""
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
    """Seeds the global generators, so that a function that draws from them has the same values everywhere."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def preserved_generators() -> AbstractContextManager[None]:
    """Gives the caller's global generators back as they were."""
    return generators_kept(_initialised_devices())


def _initialised_devices() -> list[int]:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return list(range(torch.cuda.device_count())) if cuda else []
