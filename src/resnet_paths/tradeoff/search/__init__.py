"""Which sets of blocks are tried: greedy, a beam, all of them, or those that a pairwise model likes."""

from .beam import Beam, Greedy
from .exact import Exact
from .pairwise import Pairwise
from .scores import MOST_LISTED, Options, Scores, Set

Search = Greedy | Beam | Exact | Pairwise

__all__ = ["MOST_LISTED", "Beam", "Exact", "Greedy", "Options", "Pairwise", "Scores", "Search", "Set"]
