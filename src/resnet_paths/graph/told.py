"""Numbers that a forward reads off its tensors (``x.max().item()``), and what Python does with them.

A number that goes straight back into a torch function is an operation of the graph and is read anew at each run. What
Python computes with it or decides by it (``2 * scale``, ``max(scale, 1.0)``, ``if scale > 1``, NumPy) no graph sees: it
would hold the example's result for good, silently. So the forward is followed again and told other numbers. Where it
then does something else, it cannot be followed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .closing import CannotFollow
from .errors import TraceError
from .program import Program, first_difference
from .trees import leaves, map_leaves

Change = Callable[[float], float]

OTHERWISE: tuple[Change, ...] = (
    lambda number: number + (1 + abs(number)) / 1024,
    lambda number: -1e4 * (1 + abs(number)),
    lambda number: 1e4 * (1 + abs(number)),
)
"""A little more (arithmetic shows), far below and far above (decisions and bounds show)."""


def has_fractions(answer: Any) -> bool:
    """Whether what Python was told holds numbers that are not whole: a float, complex, or an array or list of them.

    Example:
        >>> has_fractions(0.5), has_fractions([[1, 2], [3]]), has_fractions(np.ones(2))
        (True, False, True)
    """
    return any(
        isinstance(leaf, (float, complex)) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fc")
        for leaf in leaves(answer)
    )


def told_otherwise(answer: Any, change: Change) -> Any:
    """The answer with every number that is not whole changed.

    Example:
        >>> told_otherwise([0.5, [1, -2.0]], lambda number: number + 1)
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


def check_told(program: Program, last: str, again: Callable[[Change], Program]) -> None:
    """That a forward does the same whatever numbers it is told.

    Args:
        program: the forward as it was followed.
        last: the module that read a number last.
        again: follows it once more, telling it changed numbers.

    Raises:
        CannotFollow: it computes with them, or decides by them.

    Cost: three forward passes.
    """
    for change in OTHERWISE:
        try:
            other = again(change)
        except TraceError as error:  # it refuses such numbers, so it decides by them
            raise CannotFollow(last, f"it decides by a number that it reads off a tensor ({error})") from error
        difference = first_difference(program, other)
        if difference is not None:
            where, what = difference
            raise CannotFollow(
                where, f"Python computes with a number that is read off a tensor, or decides by it: {what}"
            )
