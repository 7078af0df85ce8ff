"""Arguments of public functions, checked once, where they come in: a wrong one is told in one line."""

from .checking import check_arguments, checked, without_checks
from .hints import ELSEWHERE
from .modes import no_autocast, outside_autocast
from .ranges import Range
from .shown import few

__all__ = [
    "ELSEWHERE",
    "Range",
    "check_arguments",
    "checked",
    "few",
    "no_autocast",
    "outside_autocast",
    "without_checks",
]
