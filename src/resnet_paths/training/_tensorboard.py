"""A run's metrics as TensorBoard event files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..imports import first_import


class TensorBoardLog:
    """Event files that contain each epoch exactly once, even after a kill: earlier epochs are rewritten at the start.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, rows: list[dict[str, float]]) -> None:
        try:
            with first_import("torch.utils.tensorboard"):
                from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "expected TensorBoard to be installed; run: pip install 'resnet-paths[tensorboard]'"
            ) from error
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
        self._writer: Any = SummaryWriter(str(folder))
        for row in rows:
            self.write(row)

    def write(self, row: dict[str, float]) -> None:
        """Write the metrics of an epoch, under their names in ``log.csv``."""
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
