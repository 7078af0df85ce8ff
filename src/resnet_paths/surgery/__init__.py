"""Edits of a real model: drop, repair, lesion temporarily, reorder, export."""

from .drop import drop_blocks
from .edit import dropped_in
from .export import export_model
from .lesion import lesioned
from .recalibrate import recalibrate_batchnorm
from .refit import BlockFit, RefitResult, RefitSettings, Refitter, refit_blocks
from .reorder import reorder_blocks
from .running_statistics import batch_statistics, norms_before

__all__ = [
    "BlockFit",
    "RefitResult",
    "RefitSettings",
    "Refitter",
    "batch_statistics",
    "drop_blocks",
    "dropped_in",
    "export_model",
    "lesioned",
    "norms_before",
    "recalibrate_batchnorm",
    "refit_blocks",
    "reorder_blocks",
]
