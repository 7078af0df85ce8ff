"""Progress of a training: a bar with the remaining time on terminals, one line per epoch elsewhere.

Elsewhere is mostly a log file of a batch job, where a bar would leave thousands of control characters.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import TextIO

from ..imports import first_import
from ..sweep.progress import duration


class TrainingProgress(AbstractContextManager["TrainingProgress"]):
    """Shows steps and the metrics of each epoch on standard error.

    Args:
        shown: False shows nothing.
        epochs: number of epochs of the full run.
        steps: number of steps per epoch.
        done: number of epochs finished before this session.
        stream: default standard error.
    """

    def __init__(self, shown: bool, epochs: int, steps: int, done: int, stream: TextIO | None = None) -> None:
        with first_import("rich.progress"):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._lines = shown and not self._terminal
        self._epochs, self._first, self._done = epochs, done, done
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.fields[epoch]}/{task.fields[epochs]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(file=self._stream),
            disable=not (shown and self._terminal),
        )
        self._task = self._bar.add_task(
            "", total=epochs * steps, completed=done * steps, epoch=done, epochs=epochs, figures=""
        )
        self._began = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._bar.disable:  # older releases of rich print an empty line on stop even when disabled
            self._bar.stop()

    def step(self) -> None:
        """Record that one step is done."""
        self._bar.advance(self._task)

    def epoch(self, row: dict[str, float]) -> None:
        """Record that one epoch is done, with its metrics."""
        self._done += 1
        metrics = " ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        self._bar.update(self._task, epoch=self._done, figures=metrics)
        if self._lines:
            print(f"epoch {self._done}/{self._epochs} {metrics}{self._to_go()}", file=self._stream, flush=True)

    def _to_go(self) -> str:
        remaining = self._epochs - self._done
        seconds_per_epoch = (time.monotonic() - self._began) / (self._done - self._first)
        return f", {duration(remaining * seconds_per_epoch)} to go" if remaining else ""
