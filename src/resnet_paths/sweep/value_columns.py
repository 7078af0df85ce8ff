"""Columns: the values of all points as one array a name, exact, with gaps where points have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .values import Value

LARGEST_EXACT = 2**53


class Columns:
    """Collects the values of points one by one."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._rows: dict[str, dict[int, Value]] = {}

    def add(self, index: int, values: Mapping[str, Value]) -> None:
        """Files the values of one point."""
        for name, value in values.items():
            self._rows.setdefault(name, {})[index] = value

    def arrays(self) -> dict[str, np.ndarray]:
        """One array a name with a row for each point."""
        return {name: _column(rows, self._length) for name, rows in self._rows.items()}


def _column(rows: dict[int, Value], length: int) -> np.ndarray:
    """Floats have NaN in the gaps; other types become objects with None, if there are gaps or shapes differ."""
    values = list(rows.values())
    dtype, shape = _common(values)
    gaps = len(rows) < length
    if dtype is None or (gaps and dtype.kind not in "fc"):
        column = np.full(length, None, dtype=object)
        for index, value in rows.items():
            column[index] = value
        return column
    filled = np.full((length, *shape), np.nan, dtype) if gaps else np.empty((length, *shape), dtype)
    filled[list(rows)] = np.stack(values) if shape else np.array(values, dtype)
    return filled


def _common(values: Sequence[Any]) -> tuple[np.dtype | None, tuple[int, ...]]:
    """A type and a shape that hold all values exactly, or no type."""
    if isinstance(values[0], np.ndarray):
        first = values[0]
        same = all(isinstance(v, np.ndarray) and v.dtype == first.dtype and v.shape == first.shape for v in values)
        return (first.dtype, first.shape) if same else (None, ())
    kinds = set(map(type, values))
    if kinds == {bool}:
        return np.dtype(bool), ()
    if kinds == {int}:
        return (np.dtype(np.int64) if all(-(2**63) <= v < 2**63 for v in values) else None), ()
    if kinds <= {int, float} and all(abs(v) <= LARGEST_EXACT for v in values if type(v) is int):
        return np.dtype(np.float64), ()
    if kinds == {complex}:
        return np.dtype(np.complex128), ()
    return None, ()
