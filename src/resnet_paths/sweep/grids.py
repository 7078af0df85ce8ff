"""Grids of points that are never stored: each point is created when it is requested.

``itertools.product`` can only be read once, from the beginning. A sweep requests points by index, some of them several
times, while other processes compute the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, overload

from ..arguments import checked
from .points import plain_point


class Grid(Sequence[dict[str, Any]]):
    """All combinations of the axis values; the last axis varies fastest."""

    def __init__(self, axes: dict[str, tuple[Any, ...]]) -> None:
        self.axes = axes

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values on each axis."""
        return tuple(map(len, self.axes.values()))

    def __len__(self) -> int:
        return math.prod(self.shape)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected an index below {len(self)}, got {index}")
        index %= len(self)
        point = {}
        for name, values in reversed(self.axes.items()):
            index, position = divmod(index, len(values))
            point[name] = values[position]
        return {name: point[name] for name in self.axes}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(values)}" for name, values in self.axes.items())
        return f"Grid({sizes}; {len(self)} points)"


@checked
def grid(**axes: Iterable[Any]) -> Grid:
    """The points of a grid, created on request, so that the product of the axes takes no memory.

    Args:
        axes: values of each coordinate, by name.

    Raises:
        SweepError: a value is not plain.
        ValueError: there is no axis, or an axis has equal values.

    Example:
        >>> points = grid(alpha=[-1.0, 0.0, 1.0], beta=range(2))
        >>> len(points), points[3]
        (6, {'alpha': 0.0, 'beta': 1})
    """
    if not axes:
        raise ValueError("expected at least one axis, got none: grid(alpha=[...], beta=[...])")
    plain = {name: tuple(plain_point(value) for value in values) for name, values in axes.items()}
    for name, values in plain.items():
        if len(set(values)) < len(values):
            raise ValueError(f"expected distinct values on axis {name!r}, got one of them twice")
    return Grid(plain)
