"""Edits of a real model: drop, repair, lesion for a while, reorder, export."""

from .batch_statistics import batch_statistics, norms_before
from .drop import drop_blocks
from .export import export_model
from .lesion import lesioned
from .recalibrate import recalibrate_batchnorm
from .reorder import reorder_blocks

__all__ = [
    "batch_statistics",
    "drop_blocks",
    "export_model",
    "lesioned",
    "norms_before",
    "recalibrate_batchnorm",
    "reorder_blocks",
]
