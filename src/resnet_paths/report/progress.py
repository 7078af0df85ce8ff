"""Which stage is running, and the remaining time.

The stages take from a second to minutes, so that counting them, as a sweep's progress does, would predict nothing;
each stage has a weight instead. One line per stage, because stages have no steps in common.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from ..sweep.progress import duration
from .stage import Stage


class StageProgress:
    """One line per stage: its number, the elapsed time and the estimated time left.

    The time left is the weight of the remaining stages at the rate of the finished ones.

    Example:
        >>> from resnet_paths.report.stages import STAGES
        >>> times = iter([0.0, 0.0, 2.0])
        >>> shown = StageProgress(STAGES[1:3], sys.stdout, clock=lambda: next(times))
        >>> shown("checks")
        1 of 2: Model and data
        >>> shown("blocks")
        2 of 2: The model as unrolled blocks (2.0 s so far, about 0.4 s to go)
    """

    def __init__(
        self, stages: Sequence[Stage], stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._start = clock()
        self._ran: list[str] = []

    def __call__(self, name: str) -> None:
        """A stage starts."""
        names = list(self._stages)
        done = sum(self._stages[other].weight for other in self._ran)
        left = sum(self._stages[other].weight for other in names[names.index(name) :])
        elapsed = self._clock() - self._start
        times = f" ({duration(elapsed)} so far, about {duration(left * elapsed / done)} to go)" if done else ""
        print(
            f"{names.index(name) + 1} of {len(names)}: {self._stages[name].title}{times}", file=self._stream, flush=True
        )
        self._ran.append(name)
