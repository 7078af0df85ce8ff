"""A line or a plane of cells, evaluated by the sweep engine coarse first and assembled into arrays.

Coarse first, so that a preview covers the full range after a few cells and an interrupted run leaves a surface. The
coordinates of a cell are its key in the journal: a finer grid finds the cells that it shares with a coarser one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..sweep import RunOptions, sweep
from ..sweep.result import last_line
from ..warned import warn
from .directions import Direction, cosine
from .order import coarse_to_fine
from .surface_record import Surface

Coordinates = Sequence[float] | np.ndarray


class SurfaceOptions(RunOptions, total=False):
    """Keywords that every function takes that computes a surface, and that do not change it; the points are cells.

    With a journal, the same call resumes from the finished cells, and a finer grid reuses them.

    Attributes:
        preview: called with the surface so far each time the resolution of the grid has doubled.
    """

    preview: Callable[[Surface], None] | None


@dataclass(frozen=True, eq=False)
class Axis:
    """Increasing coordinates with a name."""

    name: str
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class CellGrid:
    """A line (no y) or a plane; cell (row, column) is at (x[column], y[row])."""

    x: Axis
    y: Axis | None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.x),) if self.y is None else (len(self.y), len(self.x))

    def point(self, row: int, column: int) -> dict[str, float]:
        """The coordinates of a cell."""
        point = {self.x.name: float(self.x.values[column])}
        if self.y is not None:
            point[self.y.name] = float(self.y.values[row])
        return point


def axis(name: str, values: Coordinates | None, default: Coordinates | None = None) -> Axis:
    """Coordinates, checked: one-dimensional, finite, increasing, also from 0 on or on one side of it.

    Raises:
        ValueError: not finite, not increasing, or not one-dimensional.

    Example:
        >>> axis("x", [0, 0.5]).values
        array([0. , 0.5])
    """
    if values is None:
        values = np.linspace(-1, 1, 25) if default is None else np.asarray(default)
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or not (np.diff(array) > 0).all():
        raise ValueError(f"expected finite, increasing coordinates for {name}, got {array.tolist()[:5]}")
    return Axis(name, array + 0.0)  # -0.0 and 0.0 are one cell


def mean_and_error(per_image: dict[str, np.ndarray]) -> dict[str, float]:
    """For each metric its mean over images, and as METRIC_se the standard error of it (NaN for one image)."""
    values: dict[str, float] = {}
    with np.errstate(invalid="ignore", over="ignore"):
        for name, array in per_image.items():
            spread = float(np.std(array, ddof=1)) if len(array) > 1 else math.nan
            values[name], values[f"{name}_se"] = float(np.mean(array)), spread / math.sqrt(len(array))
    return values


def grid_along(directions: Sequence[Direction], x: Coordinates | None, y: Coordinates | None) -> CellGrid:
    """A line along one direction, a plane along two.

    Raises:
        ValueError: another number of directions, or `y` without a second.
    """
    if len(directions) not in (1, 2):
        raise ValueError(f"expected one or two directions, got {len(directions)}")
    if len(directions) == 1 and y is not None:
        raise ValueError("expected two directions where y is given, got one; leave y out or add a direction")
    return CellGrid(axis("x", x), axis("y", y) if len(directions) == 2 else None)


def along(directions: Sequence[Direction]) -> dict[str, Any]:
    """What a surface records about its directions."""
    names = [one.kind if one.seed is None else f"{one.kind}, seed {one.seed}" for one in directions]
    return {
        "x_name": names[0],
        "y_name": names[1] if len(names) == 2 else None,
        "norms": tuple(direction.norm for direction in directions),
        "cosine": cosine(*directions) if len(directions) == 2 else None,
    }


def evaluate_grid(
    function: Callable[[Any, Any, int], Any],
    grid: CellGrid,
    context: Any,
    facts: Mapping[str, Any],
    options: SurfaceOptions,
) -> Surface:
    """The surface of all cells, evaluated coarse first, with the fields that are known beforehand."""
    preview = options.get("preview")
    levels = coarse_to_fine(len(grid.x), 1 if grid.y is None else len(grid.y))
    parts = levels if preview is not None else [[cell for level in levels for cell in level]]
    cells = _Cells(grid)

    def surface() -> Surface:
        return Surface(x=grid.x.values, y=None if grid.y is None else grid.y.values, **facts, **cells.arrays())

    for part in parts:
        result = sweep(
            function,
            [grid.point(*cell) for cell in part],
            context=context,
            journal=options.get("journal"),
            executor=options.get("executor"),
            progress=options.get("progress", True),
        )
        cells.add(part, result)
        if preview is not None and cells.some:
            preview(surface())
    cells.check()
    return surface()


class _Cells:
    """Values that arrive piece by piece."""

    def __init__(self, grid: CellGrid) -> None:
        self._shape = grid.shape
        self._values: dict[str, np.ndarray] = {}
        self._finished = np.zeros(self._shape, bool)
        self._seconds = np.full(self._shape, np.nan)
        self._failures: dict[tuple[int, int], str] = {}

    def add(self, part: list[tuple[int, int]], result: Any) -> None:
        places = [cell[-len(self._shape) :] for cell in part]
        index = tuple(np.array(places).T)
        for name, column in result.values.items():
            self._values.setdefault(name, np.full(self._shape, np.nan))[index] = column.astype(float)
        self._finished[index] = result.finished
        self._seconds[index] = result.seconds
        self._failures |= {part[place]: error for place, error in result.errors.items()}

    @property
    def some(self) -> bool:
        """Whether any cell has values."""
        return bool(self._finished.any())

    def check(self) -> None:
        """Report which cells failed; if all did, there is no surface."""
        if not self._failures:
            return
        count, (cell, error) = len(self._failures), next(iter(self._failures.items()))
        said = f"{count} of {self._finished.size} cells failed, the first at (row, column) {cell}: {last_line(error)}"
        if not self.some:
            raise RuntimeError(f"expected a surface, but {said}\n{error}")
        warn(f"{said}; see the surface's `failures`", RuntimeWarning)

    def arrays(self) -> dict[str, Any]:
        """Copies of what has arrived; cells without values are NaN and not finished."""
        copies = {name: array.copy() for name, array in self._values.items()}
        return {
            "values": {name: array for name, array in copies.items() if f"{name}_se" in copies},
            "errors": {name.removesuffix("_se"): array for name, array in copies.items() if name.endswith("_se")},
            "finished": self._finished.copy(),
            "seconds": self._seconds.copy(),
            "failures": dict(self._failures),
        }
