"""Results as tables of pandas and as labelled arrays of xarray."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imports import first_import
from ..tables import data_set
from .result import SweepResult, coordinates, last_line

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def to_pandas(result: SweepResult) -> pd.DataFrame:
    """See `SweepResult.to_pandas`."""
    with first_import("pandas"):
        import pandas as pd
    columns: dict[str, Any] = {name: pd.Series(_cells(values)) for name, values in coordinates(result.points).items()}
    for name, column in result.values.items():
        columns[_free(name, columns)] = pd.Series(list(column) if column.ndim > 1 else column)
    errors = [last_line(result.errors[i]) if i in result.errors else None for i in range(len(result))]
    columns[_free("error", columns)] = pd.Series(errors, dtype=object)
    columns[_free("seconds", columns)] = pd.Series(result.seconds)
    table = pd.DataFrame(columns)
    table.attrs["provenance"] = asdict(result.provenance)
    return table


def to_xarray(result: SweepResult) -> xr.Dataset:
    """See `SweepResult.to_xarray`."""
    columns = coordinates(result.points)
    axes, order = _axes(columns, len(result))
    if axes is None:
        dims: tuple[str, ...] = ("point",)
        shape: tuple[int, ...] = (len(result),)
        # A coordinate that bears its dimension's name would become its index.
        labels = {name if name != "point" else "label": ("point", _cells(values)) for name, values in columns.items()}
    else:
        dims, shape = tuple(axes), tuple(map(len, axes.values()))
        labels = {name: (name, _cells(values)) for name, values in axes.items()}
    variables: dict[str, Any] = {}
    for name, column in result.values.items():
        inner = tuple(f"{name}_{i}" for i in range(column.ndim - 1))
        variables[_free(name, labels)] = ((*dims, *inner), _laid_out(column, order, shape))
    for name, column in (("finished", result.finished), ("seconds", result.seconds)):
        variables[_free(name, {**labels, **variables})] = (dims, _laid_out(column, order, shape))
    attributes = {f"provenance_{name}": value for name, value in asdict(result.provenance).items()}
    errors = {str(i): last_line(error) for i, error in result.errors.items()}
    return data_set(variables, labels, {**attributes, "errors": json.dumps(errors)})


def _axes(columns: Mapping[str, Sequence[Any]], length: int) -> tuple[dict[str, list[Any]] | None, np.ndarray]:
    """The axes of which the points are all combinations, in whatever order, and each point's cell."""
    flat = np.arange(length)
    try:
        axes = {name: list(dict.fromkeys(values)) for name, values in columns.items()}
    except TypeError:  # mappings within points
        return None, flat
    if length == 0 or int(np.prod([len(values) for values in axes.values()], dtype=object)) != length:
        return None, flat
    places = [{value: i for i, value in enumerate(values)} for values in axes.values()]
    indices = [[place[value] for value in values] for place, values in zip(places, columns.values(), strict=True)]
    cells = np.ravel_multi_index(tuple(map(np.array, indices)), tuple(map(len, places)))
    if len(np.unique(cells)) < length:
        return None, flat
    return axes, cells


def _laid_out(column: np.ndarray, order: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of a column in the cells of a grid."""
    cells = np.empty_like(column)
    cells[order] = column
    return cells.reshape(*shape, *column.shape[1:])


def _cells(values: Sequence[Any]) -> np.ndarray:
    """An array of plain values, as objects where they are of mixed or compound types."""
    kinds = set(map(type, values))
    if kinds <= {int, float} and all(abs(v) <= 2**53 for v in values if type(v) is int):
        return np.array(values)
    if kinds in ({bool}, {str}, {complex}):
        return np.array(values)
    cells = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        cells[i] = value
    return cells


def _free(name: str, used: Mapping[str, Any]) -> str:
    """A name that is not used: a value may be called like a coordinate."""
    while name in used:
        name += "_value"
    return name
