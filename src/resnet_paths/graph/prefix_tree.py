"""Many rows of choices, one a position: rows that begin alike share the evaluation of what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

S = TypeVar("S")
Row = Sequence[Any]


def shared_walk(start: S, rows: Sequence[Row], step: Callable[[S, int, Any], S]) -> Iterator[tuple[int, S]]:
    """Yield (row, last state) for each row of choices, depth first over their common beginnings.

    Args:
        start: the state before the first position.
        rows: (m, n) choices that can be ordered.
        step: from a state, the position and the choice made there, the next state.

    Cost: one step for each different beginning of a row. States are kept only while a row to come needs them.

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
    order = sorted(range(len(rows)), key=lambda row: rows[row])  # type: ignore[arg-type, return-value]
    path: list[S | None] = [start]
    last = start
    for place, row in enumerate(order):
        shared = _common(rows[order[place - 1]], rows[row]) if place else 0
        following = _common(rows[row], rows[order[place + 1]]) if place + 1 < len(order) else -1
        if not place or shared < len(rows[row]):
            last = _down(path, rows[row], shared, following, step)
        yield row, last


def _down(path: list[S | None], row: Row, shared: int, following: int, step: Callable[[S, int, Any], S]) -> S:
    """Follow one row from where it parts from the one before."""
    state = path[shared]
    if state is None:
        raise RuntimeError(f"the state at position {shared} was let go too early")
    del path[shared:]
    for position in range(shared, len(row)):
        path.append(state if position <= following else None)
        state = step(state, position, row[position])
    path.append(state if len(row) <= following else None)
    return state


def _common(one: Row, other: Row) -> int:
    """The number of choices with which both begin."""
    length = 0
    for a, b in zip(one, other, strict=True):
        if a != b:
            break
        length += 1
    return length
