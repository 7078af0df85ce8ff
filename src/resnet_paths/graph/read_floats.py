"""Floats that a forward reads off its tensors (``x.max().item()``), and what Python does with them.

A float passed straight back to a torch function is an operation of the graph and is read again in each run. What Python
computes from it or decides by it (``2 * scale``, ``max(scale, 1.0)``, ``if scale > 1``, NumPy) is invisible to a graph,
which would silently hold the example's result forever. So the forward is run again with other floats in place of those
read. If it then does anything else, it cannot be followed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import TraceError
from .opaque_modules import CannotFollow
from .program import Program, first_difference
from .trees import leaves, map_leaves

Change = Callable[[float], float]

OTHERWISE: tuple[Change, ...] = (
    lambda number: number + (1 + abs(number)) / 1024,
    lambda number: -1e4 * (1 + abs(number)),
    lambda number: 1e4 * (1 + abs(number)),
)
"""A little larger (reveals arithmetic), far smaller and far larger (reveals comparisons and bounds)."""


def has_fractions(answer: Any) -> bool:
    """Whether a Python value read off a tensor contains floats or complex numbers, alone or in an array or list.

    Example:
        >>> has_fractions(0.5), has_fractions([[1, 2], [3]]), has_fractions(np.ones(2))
        (True, False, True)
    """
    return any(
        isinstance(leaf, (float, complex)) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fc")
        for leaf in leaves(answer)
    )


def with_other_floats(answer: Any, change: Change) -> Any:
    """The value with every float and complex number changed.

    Example:
        >>> with_other_floats([0.5, [1, -2.0]], lambda number: number + 1)
        [1.5, [1, -1.0]]
    """

    def other(leaf: Any) -> Any:
        if isinstance(leaf, complex):
            return complex(change(leaf.real), change(leaf.imag))
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
            return np.vectorize(change, otypes=[leaf.dtype])(leaf) if leaf.size else leaf
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "c":
            return leaf + (1 + abs(leaf)) * (change(0.0) - 1)
        return change(leaf) if isinstance(leaf, float) else leaf

    return map_leaves(answer, other)


def check_use_of_floats(program: Program, last: str, again: Callable[[Change], Program]) -> None:
    """Check that a forward runs the same operations whatever floats it reads.

    Args:
        program: the forward as it was followed.
        last: the module that read a number last.
        again: follows it once more with changed floats.

    Raises:
        CannotFollow: Python computes with them, or decides by them.

    Cost: three forward passes.
    """
    for change in OTHERWISE:
        try:
            other = again(change)
        except TraceError as error:  # it rejects such numbers, so it depends on them
            raise CannotFollow(
                last, f"its operations depend on a number that it reads off a tensor ({error})"
            ) from error
        difference = first_difference(program, other)
        if difference is not None:
            where, what = difference
            raise CannotFollow(where, f"Python computes with a number read off a tensor, or branches on it: {what}")
