"""What a sweep returns: the points with their values, as a table, as a labelled array, as a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records import Record
from ._provenance import SweepProvenance
from .points import Point

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True)
class SweepResult(Record):
    """All points of a sweep in the order given, with what became of each.

    Attributes:
        points: the points.
        values: by name, one row a point. Rows of points that are not `finished` hold NaN, or None where the
            type has no NaN; a NaN in a finished row is the value that the function returned.
        finished: which points have values.
        errors: the traceback of each failed point, by its index.
        notes: what points said, such as halved batches, by their index.
        seconds: the time that each point took where it was computed.
        provenance: versions, fingerprints, seed, command.

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
        """A row for each point: its coordinates, its values, the error's last line, and the seconds."""
        from ._tables import to_pandas

        return to_pandas(self)

    def to_xarray(self) -> xr.Dataset:
        """Points that are all combinations of some coordinates become dimensions; others lie along `point`."""
        from ._tables import to_xarray

        return to_xarray(self)

    def save(self, path: Path | str) -> Path:
        """Writes one file, whole or not at all: `.npz`, or `.nc` (NetCDF, with the extra `netcdf`).

        Raises:
            ValueError: for another ending, or values that NetCDF cannot hold.
            ImportError: without the library that writes NetCDF.
        """
        from ._files import save

        save(self, Path(path))
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> SweepResult:
        """Reads a file written by `save` as `.npz`; runs no code from it.

        Raises:
            ValueError: for another file.
        """
        from ._files import load

        return load(Path(path))

    def summary(self) -> str:
        """What became of the points, in words, with the kinds of errors and how often each came."""
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
    """The points as columns: by name, by position (`p0`, `p1`, ...), or all in one called `point`."""
    if len(points) and all(isinstance(point, dict) for point in points):
        names = dict.fromkeys(name for point in points for name in point)
        return {name: [point.get(name) for point in points] for name in names}
    lengths = {len(point) if isinstance(point, tuple) else -1 for point in points}
    if len(lengths) == 1 and (length := lengths.pop()) > 0:
        return {f"p{i}": [point[i] for point in points] for i in range(length)}
    return {"point": list(points)}
