"""Durations as people write them: ``90s``, ``3min``, ``1h30min``.

Without any import of PyTorch, because the command line reads its options with it.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

_SECONDS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+?)s?(?=[\s\d]|$)")


def in_seconds(duration: str | float | timedelta) -> float:
    """The seconds of a duration: a number of seconds, a timedelta, or words.

    Args:
        duration: a number with its unit (s, min or h, also written out), or several of these in turn.

    Raises:
        ValueError: other words, or not a positive and finite time.

    Example:
        >>> in_seconds("90s"), in_seconds("3min"), in_seconds("1h 30 minutes"), in_seconds(2.5)
        (90.0, 180.0, 5400.0, 2.5)
        >>> in_seconds("3 parsecs")
        Traceback (most recent call last):
        ValueError: expected a duration such as 90s, 3min or 1h, got '3 parsecs'
    """
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        words = duration.strip().lower()
        parts = [(float(number), unit) for number, unit in _PART.findall(words)]
        rest = _PART.sub("", words).strip()
        if rest or not parts or any(unit not in _SECONDS for _, unit in parts):
            raise ValueError(f"expected a duration such as 90s, 3min or 1h, got {duration!r}")
        seconds = sum(number * _SECONDS[unit] for number, unit in parts)
    else:
        seconds = float(duration)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"expected a duration above zero, such as 90s, 3min or 1h, got {duration!r}")
    return float(seconds)
