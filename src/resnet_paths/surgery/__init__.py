"""Edits of a real model: drop, lesion for a while, reorder."""

from .drop import drop_blocks
from .lesion import lesioned
from .reorder import reorder_blocks

__all__ = ["drop_blocks", "lesioned", "reorder_blocks"]
