"""Warnings that point at the line of the caller, however many functions of this library stand between."""

from __future__ import annotations

import sys
import warnings

_BETWEEN = (__name__.partition(".")[0], "torch", "contextlib", "functools")
"""Packages whose frames are not the caller's: ours, and what wraps our functions."""


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn, with the first line outside of this library as the place.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("few images")
        >>> str(caught[0].message)
        'few images'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_between(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def _is_between(module: str) -> bool:
    return module.partition(".")[0] in _BETWEEN
