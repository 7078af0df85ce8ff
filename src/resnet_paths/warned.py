"""Warnings that point at the caller's line, however many functions of this library are in between.

A fixed ``stacklevel`` does not work: decorators, contexts and torch's own wrappers add a varying number of frames.
"""

from __future__ import annotations

import sys
import warnings

_SKIPPED_PACKAGES = (__name__.partition(".")[0], "torch", "contextlib", "functools")
"""Packages whose frames are not the caller's: this one, and those that wrap its functions."""


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn, with the first line outside this library as the location.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("few images")
        >>> str(caught[0].message)
        'few images'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_skipped(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def _is_skipped(module: str) -> bool:
    return module.partition(".")[0] in _SKIPPED_PACKAGES
