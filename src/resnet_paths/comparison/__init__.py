"""Models side by side, on the same images: which blocks correspond, and by how much the models differ."""

from .matching import BlockMatches, match_blocks
from .side_by_side import Comparison, compare

__all__ = ["BlockMatches", "Comparison", "compare", "match_blocks"]
