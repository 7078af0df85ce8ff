"""Path statistics recorded during training, without changing a bit of it."""

from typing import TYPE_CHECKING, Any

from .loggers import Logger, to_tensorboard, to_wandb
from .recorder import PathRecorder
from .results import log_result
from .statistics import PathStatistics, path_statistics

if TYPE_CHECKING:
    from .lightning import LightningPathRecorder

__all__ = [
    "LightningPathRecorder",
    "Logger",
    "PathRecorder",
    "PathStatistics",
    "log_result",
    "path_statistics",
    "to_tensorboard",
    "to_wandb",
]


def __getattr__(name: str) -> Any:
    """Import the Lightning callback on first use, so that Lightning stays optional."""
    if name == "LightningPathRecorder":
        from .lightning import LightningPathRecorder

        return LightningPathRecorder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
