"""The result of a sweep: the points with their values, as a table and as labelled arrays.

Other records of this library declare their dimensions. Here the dimensions follow from the points, which are the
user's: if they are all combinations of some coordinates, in whatever order, those become the axes of a grid; otherwise
each point is a row. Files are the same as for every record.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records import Record
from ..tables import data_frame, data_set
from ._provenance import SweepProvenance
from .points import Point
from .values import common_type, objects

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True)
class SweepResult(Record):
    """All points of a sweep in the given order, with the outcome of each.

    Attributes:
        points: the points.
        values: values by name, one row per point. Rows of points that are not `finished` contain NaN, or None if the
            dtype has no NaN; a NaN in a finished row was returned by the function.
        finished: whether each point has values.
        errors: traceback of each failed point, by index.
        notes: messages of points, such as halved batches, by index.
        seconds: computing time of each point.
        provenance: versions, fingerprints, seed and command.

    Example:
        >>> from resnet_paths.sweep import grid, sweep
        >>> def product(point, context, seed):
        ...     return point["a"] * point["b"]
        >>> result = sweep(product, grid(a=[1, 2], b=[3, 4]), progress=False)
        >>> result.values["value"]
        array([3, 4, 6, 8])
        >>> result.to_xarray()["value"].sel(a=2, b=3).item()
        6
        >>> list(result.to_pandas().columns)
        ['a', 'b', 'value', 'error', 'seconds']
    """

    points: Sequence[Point] = field(repr=False)
    values: dict[str, np.ndarray] = field(repr=False)
    finished: np.ndarray = field(repr=False)
    errors: dict[int, str] = field(repr=False)
    notes: dict[int, tuple[str, ...]] = field(repr=False)
    seconds: np.ndarray = field(repr=False)
    provenance: SweepProvenance

    def __len__(self) -> int:
        return len(self.points)

    def to_pandas(self) -> pd.DataFrame:
        """One row per point: coordinates, values, last line of the error, and seconds."""
        table: dict[str, Any] = {name: _labels(values) for name, values in coordinates(self.points).items()}
        for name, column in self.values.items():
            table[_unused_name(name, table)] = list(column) if column.ndim > 1 else column
        errors = [last_line(self.errors[i]) if i in self.errors else None for i in range(len(self))]
        table[_unused_name("error", table)] = objects(errors)
        table[_unused_name("seconds", table)] = self.seconds
        frame = data_frame(table)
        frame.attrs["provenance"] = asdict(self.provenance)
        return frame

    def to_xarray(self) -> xr.Dataset:
        """Coordinates whose combinations are all present become dimensions; other points lie along `point`."""
        by_name = coordinates(self.points)
        axes, cells = _axes(by_name, len(self))
        dims: tuple[str, ...] = ("point",) if axes is None else tuple(axes)
        shape = (len(self),) if axes is None else tuple(map(len, axes.values()))
        if axes is None:
            # A coordinate with the name of its dimension would become its index.
            labels = {name if name != "point" else "label": ("point", _labels(by_name[name])) for name in by_name}
        else:
            labels = {name: (name, _labels(values)) for name, values in axes.items()}
        variables: dict[str, Any] = {}
        for name, column in (*self.values.items(), ("finished", self.finished), ("seconds", self.seconds)):
            inner = tuple(f"{name}_{i}" for i in range(column.ndim - 1))
            laid_out = np.empty_like(column)
            laid_out[cells] = column
            full_name = _unused_name(name, {**labels, **variables})
            variables[full_name] = ((*dims, *inner), laid_out.reshape(*shape, *column.shape[1:]))
        facts = {f"provenance_{name}": value for name, value in asdict(self.provenance).items()}
        facts["errors"] = json.dumps({str(i): last_line(error) for i, error in self.errors.items()})
        return data_set(variables, labels, facts)

    def summary(self) -> str:
        """The outcome in words, with the most frequent kinds of errors and their counts."""
        lines = [f"{int(self.finished.sum())} of {len(self)} points finished, {len(self.errors)} failed"]
        kinds = Counter(last_line(error) for error in self.errors.values())
        lines += [f"  {count} x {kind}" for kind, count in kinds.most_common(5)]
        if len(kinds) > 5:
            lines.append(f"  and {len(kinds) - 5} other kinds of errors")
        return "\n".join(lines)


def last_line(error: str) -> str:
    """The line of a traceback that names the error."""
    return next((line for line in reversed(error.splitlines()) if line and not line.startswith(" ")), error)


def coordinates(points: Sequence[Any]) -> dict[str, list[Any]]:
    """The points as columns: by name, by position (`p0`, `p1`, ...), or in a single column `point`."""
    if len(points) and all(isinstance(point, dict) for point in points):
        names = dict.fromkeys(name for point in points for name in point)
        return {name: [point.get(name) for point in points] for name in names}
    lengths = {len(point) if isinstance(point, tuple) else -1 for point in points}
    if len(lengths) == 1 and (length := lengths.pop()) > 0:
        return {f"p{i}": [point[i] for point in points] for i in range(length)}
    return {"point": list(points)}


def _axes(by_name: Mapping[str, Sequence[Any]], length: int) -> tuple[dict[str, list[Any]] | None, np.ndarray]:
    """The axes whose combinations are exactly the points, in any order, and the cell of each point."""
    flat = np.arange(length)
    try:
        axes = {name: list(dict.fromkeys(values)) for name, values in by_name.items()}
    except TypeError:  # points with mappings inside are not hashable
        return None, flat
    sizes = tuple(map(len, axes.values()))
    if length == 0 or math.prod(sizes) != length:
        return None, flat
    indices = [list(map({value: i for i, value in enumerate(axes[name])}.get, by_name[name])) for name in axes]
    cells = np.ravel_multi_index(tuple(map(np.array, indices)), sizes)
    return (axes, cells) if len(np.unique(cells)) == length else (None, flat)


def _labels(values: Sequence[Any]) -> np.ndarray:
    """Coordinates as an array; strings get a string dtype, which sorts and selects better than objects."""
    if set(map(type, values)) <= {str}:
        return np.array(values)
    dtype, _ = common_type(values)
    return objects(values) if dtype is None else np.array(values, dtype)


def _unused_name(name: str, used: Mapping[str, Any]) -> str:
    """A name that is not yet used, since a value may have the name of a coordinate."""
    while name in used:
        name += "_value"
    return name
