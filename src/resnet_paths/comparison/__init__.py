"""Models side by side, on the same images: which blocks correspond, and by how much the models differ."""

from .checkpoints import checkpoints_in
from .matching import BlockMatches, match_blocks
from .record import Comparison
from .settings import PartSettings
from .side_by_side import compare

__all__ = ["BlockMatches", "Comparison", "PartSettings", "checkpoints_in", "compare", "match_blocks"]
