"""A surface that can be rotated: what the page's script draws in three dimensions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .pictures import Mark, marks
from .section import Table
from .words import number

ONE_PLANE = "A surface shows one random plane out of very many; another seed gives another surface."


def cell_text(row: Mapping[str, Any]) -> str:
    """The value of a cell of a loss surface, shown on hover."""
    return f"step ({number(row['x'])}, {number(row['y'])}): loss {number(row['loss'])}"


def surface_marks(cells: Table) -> list[Mark]:
    """A mark for each cell of a loss surface, in the order of rows and columns, in which arrow keys go."""
    return sorted(marks(cells, cell_text, y="y", x="x", value="loss"), key=lambda mark: (mark.y, mark.x))


def relief_data(table: Table, text: Callable[[Mapping[str, Any]], str], x: str, y: str, value: str) -> str:
    """A plane of cells as JSON: their coordinates, heights (logarithms of the values) and texts.

    Args:
        table: one row for each cell of the plane, in any order.
        text: of a row.
        x: column of the horizontal coordinate.
        y: column of the other one.
        value: column of the value, above zero; cells where it is not have no height.

    Returns:
        JSON with ``x`` and ``y``; for each cell, from the lowest y and x, ``z`` (null without a height), ``texts``,
        ``exact`` (the value), ``rows`` (of the table); and ``table`` and ``column``, their names.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"x": [0, 1, 0, 1], "y": [0, 0, 1, 1], "loss": [1, 10, 100, 0.0]})
        >>> data = json.loads(relief_data(Table.of("t", "T", frame), lambda row: str(row["loss"]), "x", "y", "loss"))
        >>> data["z"], data["texts"][2], data["rows"]
        ([0.0, 1.0, 2.0, None], '100.0', [0, 1, 2, 3])
    """
    rows = table.rows()
    order = sorted(range(len(rows)), key=lambda index: (rows[index][y], rows[index][x]))
    cells = [rows[index] for index in order]
    exact = [float(cell[value]) if np.isfinite(cell[value]) and cell[value] > 0 else None for cell in cells]
    data = {
        "x": sorted({cell[x] for cell in cells}),
        "y": sorted({cell[y] for cell in cells}),
        "z": [None if height is None else float(np.log10(height)) for height in exact],
        "exact": exact,
        "texts": [text(cell) for cell in cells],
        "rows": order,
        "table": table.name,
        "column": value,
    }
    return json.dumps(data)
