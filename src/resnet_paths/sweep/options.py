"""The keywords shared by every function that evaluates many points."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import TypedDict


class RunOptions(TypedDict, total=False):
    """Keywords of every function that evaluates many points; none of them affects a value.

    Attributes:
        progress: show progress and the remaining time; True by default.
        journal: file that stores finished points, from which the same call resumes (see
            :func:`resnet_paths.sweep.sweep`).
        executor: any ``concurrent.futures.Executor``, such as :func:`resnet_paths.sweep.local_workers`.
    """

    progress: bool
    journal: Path | str | None
    executor: Executor | None
