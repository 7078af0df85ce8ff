"""A value as it appears in an error message: on one line, however large it is."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_LONG = 60  # characters: the rest of the message fits beside it on a line of 120


def shown(value: Any) -> str:
    """The value itself, or its type and size if it would not fit on a line.

    Example:
        >>> import torch
        >>> print(shown(-1), shown("a"), shown(torch.zeros(2, 3)), shown([0] * 100))
        -1 'a' a Tensor (float32, 2x3) a list of 100
        >>> print(shown(10**30), shown(torch.nn.ReLU()), shown(torch.nn.ReLU))
        a number of 31 digits a ReLU the class ReLU
    """
    if isinstance(value, np.generic):
        value = value.item()  # shows -1, not np.int64(-1)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**25:
        with contextlib.suppress(ValueError):  # Python refuses to print integers of more than 4,300 digits
            return f"a number of {len(str(abs(value)))} digits"
        return "a number of thousands of digits"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _array(value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | list | tuple | dict | set):
        text = repr(value)
        if len(text) <= _LONG and text.isprintable():
            return text
        if isinstance(value, str | bytes):
            return f"{text[:_LONG]}..."
        return f"{_article(type(value).__name__)} of {len(value)}"  # type: ignore[arg-type]
    return _article(type(value).__name__)


def few(names: Sequence[str], most: int = 6) -> str:
    """Names in a message: the first few, and the number of others.

    Example:
        >>> few("abc"), few(["one", "two", "three"], most=2)
        ('a, b, c', 'one, two and 1 more')
    """
    first = ", ".join(names[:most])
    return f"{first} and {len(names) - most} more" if len(names) > most else first


def _array(value: Any) -> str:
    try:
        sides = "x".join(map(str, value.shape)) or "no dimensions"
    except TypeError:
        sides = str(value.shape)
    return f"{_article(type(value).__name__)} ({str(value.dtype).removeprefix('torch.')}, {sides})"


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
