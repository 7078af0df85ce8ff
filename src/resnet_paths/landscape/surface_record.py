"""What a surface is: values over a line or a plane, with their coordinates and standard errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..provenance import Provenance
from ..records import Record
from ..tables import data_set

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

NOWHERE = Provenance(model="", data="", dtype="float64", seed=None, torch="", version="", name="given")
"""The kind of surfaces made from a user's own values."""


@dataclass(frozen=True, eq=False)
class Surface(Record):
    """Metrics over a line (columns,) or a plane (rows, columns); row r, column c is at (x_c, y_r).

    Attributes:
        x: (columns,) coordinates.
        y: (rows,) coordinates; None on a line.
        values: for each metric its mean over examples. NaN and infinities are the model's own results, unless the cell
            is not `finished`.
        errors: for each metric the standard errors of these means over examples (with ``batch`` statistics, as if the
            examples were independent).
        finished: which cells have values.
        failures: the traceback of each cell that failed, by (row, column).
        seconds: the time that each cell took.
        x_name: what x is.
        y_name: what y is; None on a line.
        norms: Euclidean norm of each direction (none for gates).
        cosine: between the two directions; None otherwise.
        batchnorm: what batch norm's statistics were: frozen, recalibrated or batch.
        batch_size: examples per batch, where it was given.
        images: number of images, or of other examples.
        source: model, data, type and versions.
        loss: what the metric ``loss`` is: another metric's name (``loss`` itself is cross-entropy), or that of your
            function.
    """

    x: np.ndarray
    y: np.ndarray | None
    values: dict[str, np.ndarray] = field(repr=False)
    errors: dict[str, np.ndarray] = field(repr=False)
    finished: np.ndarray = field(repr=False)
    failures: dict[tuple[int, int], str] = field(repr=False)
    seconds: np.ndarray = field(repr=False)
    x_name: str
    y_name: str | None
    norms: tuple[float, ...]
    cosine: float | None
    batchnorm: str
    batch_size: int | None
    images: int
    source: Provenance = field(repr=False)
    loss: str = "loss"

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray | None, **values: np.ndarray) -> Surface:
        """A surface from your own values, such as a function's, without standard errors.

        Raises:
            ValueError: values of another shape than the coordinates give.

        Example:
            >>> Surface.of(np.arange(3.0), None, loss=np.arange(3.0) ** 2).values["loss"]
            array([0., 1., 4.])
        """
        shape = (len(x),) if y is None else (len(y), len(x))
        wrong = {name: array.shape for name, array in values.items() if array.shape != shape}
        if wrong or not values:
            raise ValueError(f"expected values of shape {shape}, (rows, columns), got {wrong or 'none'}")
        nothing = np.full(shape, np.nan)
        return cls(
            x=x, y=y, values=dict(values), errors=dict.fromkeys(values, nothing), finished=np.ones(shape, bool),
            failures={}, seconds=nothing, x_name="x", y_name=None if y is None else "y", norms=(), cosine=None,
            batchnorm="frozen", batch_size=None, images=0, source=NOWHERE,
        )  # fmt: skip

    def to_xarray(self) -> xr.Dataset:
        """Each metric, and its standard error as METRIC_se, over the named coordinates."""
        dims = ["x"] if self.y is None else ["y", "x"]
        coordinates = {"x": ("x", self.x, {"long_name": self.x_name})}
        if self.y is not None:
            coordinates["y"] = ("y", self.y, {"long_name": str(self.y_name)})
        arrays = {name: (dims, array) for name, array in self.values.items()}
        arrays |= {f"{name}_se": (dims, array) for name, array in self.errors.items()}
        arrays["finished"] = (dims, self.finished)
        source = {name: fact for name, fact in vars(self.source).items() if fact is not None}
        facts = {"batchnorm": self.batchnorm, "images": self.images, **source}
        return data_set(arrays, coordinates, facts)

    def to_pandas(self) -> pd.DataFrame:
        """One row per cell: its coordinates, its metrics and their standard errors."""
        frame = self.to_xarray().to_dataframe().reset_index()
        first = ["x"] if self.y is None else ["x", "y"]
        return frame[[*first, *(name for name in frame.columns if name not in first)]]
