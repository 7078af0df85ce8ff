"""Which stage is running, and the remaining time.

The stages take from a second to minutes, so that counting them, as a sweep's progress does, would predict nothing; the
time budget has an estimate for each. One line per stage, because stages have no steps in common.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol, TextIO

from ..sweep.progress import duration
from .stage import Stage


class Expecting(Protocol):
    """What expects a time of each stage."""

    def elapsed(self) -> float:
        """The seconds since the report began."""

    def to_go(self, stage: Stage) -> float:
        """The seconds that a stage and those after it will take."""


class StageProgress:
    """One line per stage: its number, the elapsed time and the expected time left.

    Example:
        >>> from resnet_paths.report.stages import STAGES
        >>> class Plan:
        ...     def elapsed(self):
        ...         return 2.0
        ...     def to_go(self, stage):
        ...         return 65.0
        >>> shown = StageProgress(STAGES[1:3], Plan(), sys.stdout)
        >>> shown(STAGES[1])
        stage 1 of 2: Model and data
        >>> shown(STAGES[2])
        stage 2 of 2: The model as unrolled blocks (2.0 s so far, about 1 min 5 s to go)
    """

    def __init__(self, stages: Sequence[Stage], plan: Expecting, stream: TextIO | None = None) -> None:
        self._names = [stage.name for stage in stages]
        self._plan = plan
        self._stream = sys.stderr if stream is None else stream
        self._has_started = False

    def __call__(self, stage: Stage) -> None:
        """A stage starts."""
        times = ""
        if self._has_started:
            so_far, to_go = self._plan.elapsed(), self._plan.to_go(stage)
            times = f" ({duration(so_far)} so far, about {duration(to_go)} to go)"
        number = self._names.index(stage.name) + 1
        print(f"stage {number} of {len(self._names)}: {stage.title}{times}", file=self._stream, flush=True)
        self._has_started = True
