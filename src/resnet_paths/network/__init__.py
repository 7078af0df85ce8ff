"""From any residual model to its units: tracing, dominators, evaluation at gates."""

from ..graph.errors import NotDroppableError, NoUnitsError, TraceError, UnitIndexError, UnrollError
from .discover import unroll
from .gate_rows import Evaluations
from .inference import for_inference
from .plain import PlainNetwork, plain_layers
from .twins import Twins
from .unit import Unit, UnitRef
from .unrolled import State, UnrolledNetwork

__all__ = [
    "Evaluations",
    "NoUnitsError",
    "NotDroppableError",
    "PlainNetwork",
    "State",
    "TraceError",
    "Twins",
    "Unit",
    "UnitIndexError",
    "UnitRef",
    "UnrollError",
    "UnrolledNetwork",
    "for_inference",
    "plain_layers",
    "unroll",
]
