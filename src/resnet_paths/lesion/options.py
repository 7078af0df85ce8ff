"""How a study of lesions runs: what all of them share."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict


class StudyOptions(TypedDict, total=False):
    """Keywords that every study of lesions takes, and that do not change its numbers.

    Attributes:
        batch_size: images per batch; 100 by default.
        fast: fold norms and store channels last first (same numbers within 1e-4 in float32, 1e-10 in float64); True
            by default.
        progress: show a progress bar on a terminal; True by default.
        journal: a file that keeps each finished batch of images: the same call resumes where it was stopped (see
            :func:`resnet_paths.sweep.sweep`).
        executor: evaluate the batches of images on it, any ``concurrent.futures.Executor``.
    """

    batch_size: int
    fast: bool
    progress: bool
    journal: Path | str | None
    executor: Executor | None


@dataclass(frozen=True)
class Running:
    """The same with their defaults, checked; an unknown keyword is a TypeError."""

    batch_size: int = 100
    fast: bool = True
    progress: bool = True
    journal: Path | str | None = None
    executor: Executor | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {self.batch_size}")
