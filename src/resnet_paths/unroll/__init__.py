"""From any residual model to its units: tracing, dominators, evaluation at gates."""

from ._rows import Evaluations
from .discover import unroll
from .errors import NotDroppableError, NoUnitsError, TraceError, UnitIndexError, UnrollError
from .inference import for_inference
from .network import State, Suffix, UnrolledNetwork
from .plain import PlainNetwork, plain_layers
from .unit import Unit, UnitRef

__all__ = [
    "Evaluations",
    "NoUnitsError",
    "NotDroppableError",
    "PlainNetwork",
    "State",
    "Suffix",
    "TraceError",
    "Unit",
    "UnitIndexError",
    "UnitRef",
    "UnrollError",
    "UnrolledNetwork",
    "for_inference",
    "plain_layers",
    "unroll",
]
