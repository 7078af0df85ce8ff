"""What can go wrong when a model is unrolled; each message says what to do about it."""

from __future__ import annotations


class UnrollError(ValueError):
    """A model cannot be unrolled, or a block cannot be used as asked."""


class TraceError(UnrollError):
    """A front end could not turn the model's forward pass into a graph."""


class NoBlocksError(UnrollError):
    """The graph has no addition that is a residual block; the message says why each was refused."""


class BlockIndexError(UnrollError, IndexError):
    """A requested block does not exist, or was requested twice."""


class NotDroppableError(UnrollError):
    """A block cannot be removed from a model, for the reason given in the message."""


class OutputError(UnrollError):
    """The requested output is not among those that the model returns."""
