"""What can go wrong when a model is unrolled, each with what to do about it."""

from __future__ import annotations


class UnrollError(ValueError):
    """A model cannot be unrolled, or a block cannot be used as asked."""


class TraceError(UnrollError):
    """A front end could not turn the model's forward pass into a graph."""


class NoBlocksError(UnrollError):
    """The graph has no addition that is a residual block; the message says why each was refused."""


class BlockIndexError(UnrollError, IndexError):
    """A block was named that does not exist, or was named twice."""


class NotDroppableError(UnrollError):
    """A block cannot be taken out of a model for the reason that the message gives."""


class OutputError(UnrollError):
    """The output that was asked for is not one that the model returns."""
