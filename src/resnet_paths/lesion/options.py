"""How a lesion study runs: the options that all of them share."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from ..sweep import RunOptions


class StudyOptions(RunOptions, total=False):
    """Keyword arguments of every lesion study that do not change its numbers; the sweep's points are batches of images.

    Attributes:
        batch_size: images per batch; 100 by default.
        fast: whether to fold norms and store weights channels last first (same numbers within 1e-4 in float32, 1e-10 in
            float64); True by default.
    """

    batch_size: int
    fast: bool


@dataclass(frozen=True)
class Running:
    """The same options with their defaults, checked; an unknown keyword raises a TypeError."""

    batch_size: int = 100
    fast: bool = True
    progress: bool = True
    journal: Path | str | None = None
    executor: Executor | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {self.batch_size}")
