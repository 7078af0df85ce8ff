"""Which sets of blocks to try: greedy, a beam, or all of them."""

from .beam import Beam, Greedy
from .exact import Exact
from .scores import MOST_LISTED, Options, Scores, Set

Search = Greedy | Beam | Exact

__all__ = ["MOST_LISTED", "Beam", "Exact", "Greedy", "Options", "Scores", "Search", "Set"]
