"""Checks of the arguments of public functions, once at the entry, with one-line error messages."""

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
