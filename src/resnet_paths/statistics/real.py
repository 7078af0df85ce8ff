"""The check of all input arrays: real numbers of the stated shape. NumPy itself would convert much else silently."""

from __future__ import annotations

from typing import Any

import numpy as np


def real(values: Any, form: str, *, least: int = 1, name: str = "values") -> np.ndarray:
    """Values as an array of floating-point numbers; NaN and infinities stay.

    Args:
        values: an array, or numbers in sequences.
        form: names of the dimensions, such as ``rows, examples``; ``...`` stands for any number of them.
        least: the least length of the last dimension.
        name: what to call the values in a message.

    Raises:
        ValueError: they have other dimensions, or the last one is shorter.
        TypeError: they are not real numbers.

    Example:
        >>> real([True, False], "examples")
        array([1., 0.])
        >>> real(np.ones(3), "rows, n")
        Traceback (most recent call last):
        ValueError: expected values of shape (rows, n), got (3,); one row is values[None]
    """
    array, dimensions = np.asarray(values), form.split(", ")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected real numbers as {name}, got an array of {array.dtype}; convert them first")
    given, needed = array.ndim, len(dimensions)
    if given < needed - 1 if dimensions[0] == "..." else given != needed:
        hint = f"; one row is {name}[None]" if given == 1 and dimensions[0] == "rows" else ""
        raise ValueError(f"expected {name} of shape ({form}), got {array.shape}{hint}")
    if needed > 1 or dimensions[0] != "...":
        _check_length(array, form, least, name)
    return array if array.dtype.kind == "f" else array.astype(float)


def _check_length(array: np.ndarray, form: str, least: int, name: str) -> None:
    if array.shape[-1] < least:
        last = form.split(", ")[-1].removesuffix("s")
        number = f"one {last}" if least == 1 else f"{least} {last}s"
        raise ValueError(f"expected {name} of shape ({form}) with at least {number}, got {array.shape}; pass more")
