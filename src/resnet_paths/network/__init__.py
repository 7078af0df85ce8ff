"""From any residual model to an unrolled network: its blocks, and evaluation at gates."""

from ..graph.errors import BlockIndexError, NoBlocksError, NotDroppableError, TraceError, UnrollError
from .block import Block, BlockRef
from .discover import unroll
from .gate_rows import Evaluations
from .inference import for_inference
from .plain import PlainNetwork, plain_layers
from .twins import Twins
from .unrolled import State, UnrolledNetwork

__all__ = [
    "Block",
    "BlockIndexError",
    "BlockRef",
    "Evaluations",
    "NoBlocksError",
    "NotDroppableError",
    "PlainNetwork",
    "State",
    "TraceError",
    "Twins",
    "UnrollError",
    "UnrolledNetwork",
    "for_inference",
    "plain_layers",
    "unroll",
]
