"""Edits of a real model: drop, lesion for a while, reorder, export."""

from .drop import drop_blocks
from .export import export_model
from .lesion import lesioned
from .reorder import reorder_blocks

__all__ = ["drop_blocks", "export_model", "lesioned", "reorder_blocks"]
