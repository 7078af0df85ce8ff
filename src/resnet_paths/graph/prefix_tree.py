"""Evaluate many rows of choices, one choice per position, so that rows with a common prefix share its evaluation.

This is what makes sweeps over gates cheap: 2^n gate rows need 2^(n+1) block evaluations instead of n 2^n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

S = TypeVar("S")
Row = Sequence[Any]


def shared_walk(start: S, rows: Sequence[Row], step: Callable[[S, int, Any], S]) -> Iterator[tuple[int, S]]:
    """Yield (row, last state) for each row of choices, depth first over the tree of their prefixes.

    Args:
        start: the state before the first position.
        rows: (m, n) choices that can be ordered.
        step: maps a state, the position and the choice made there to the next state.

    Cost: one step per distinct prefix. A state is kept only while a later row needs it.

    Example:
        >>> calls = []
        >>> def join(text, position, letter):
        ...     calls.append(letter)
        ...     return text + letter
        >>> sorted(shared_walk("", ["abd", "abc", "b c"], join))
        [(0, 'abd'), (1, 'abc'), (2, 'b c')]
        >>> len(calls)
        7
    """
    # Sorted, rows with a common prefix are neighbours, so the states of one row at a time are enough.
    order = sorted(range(len(rows)), key=lambda row: rows[row])  # type: ignore[arg-type, return-value]
    path: list[S | None] = [start]
    last = start
    for turn, row in enumerate(order):
        shared = _common(rows[order[turn - 1]], rows[row]) if turn else 0
        following = _common(rows[row], rows[order[turn + 1]]) if turn + 1 < len(order) else -1
        if not turn or shared < len(rows[row]):
            last = _down(path, rows[row], shared, following, step)
        yield row, last


def _down(path: list[S | None], row: Row, shared: int, following: int, step: Callable[[S, int, Any], S]) -> S:
    """Follow one row from where it diverges from the previous one."""
    state = path[shared]
    if state is None:
        raise RuntimeError(f"the state at position {shared} was freed too early")
    del path[shared:]
    for position in range(shared, len(row)):
        # The next row branches off at `following`; no later one reads a state beyond it, so those are freed at once.
        path.append(state if position <= following else None)
        state = step(state, position, row[position])
    path.append(state if len(row) <= following else None)
    return state


def _common(one: Row, other: Row) -> int:
    """The length of the common prefix."""
    length = 0
    for a, b in zip(one, other, strict=True):
        if a != b:
            break
        length += 1
    return length
