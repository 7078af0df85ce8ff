"""The words with which everything that sweeps is told how to run."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import TypedDict


class RunOptions(TypedDict, total=False):
    """Keywords that every function takes that evaluates many points; none changes a value.

    Attributes:
        progress: show progress and the time left on a terminal; True by default.
        journal: a file that keeps what is finished: the same call resumes where it was stopped (see
            :func:`resnet_paths.sweep.sweep`).
        executor: any ``concurrent.futures.Executor``, such as :func:`resnet_paths.sweep.local_workers`.
    """

    progress: bool
    journal: Path | str | None
    executor: Executor | None
