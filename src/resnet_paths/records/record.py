"""The one base class of results.

Every analysis returns a frozen dataclass that derives from :class:`Record`. It declares the dimensions of its array
fields, and xarray data sets follow from that declaration alone; fields without dimensions become attributes. So
does the table, unless a record has rows of another kind (a block, a draw). Records contain no analysis and no
plotting: they can be read on any machine, without the model and the data that they came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from ..tables import data_set
from .display import Shown
from .file_format import load_record, save_record

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class Record(Shown):
    """The result of an analysis, with its provenance.

    Attributes:
        DIMENSIONS: the dimension names of each array field, as in ``"block image"``. A field that maps names to arrays
            becomes one variable per name; one that is None or empty is left out. ``...`` stands for the dimensions of
            the user's data, of any number: ``axis_0``, ``axis_1``, ...
        COORDINATES: the field with the coordinates of a dimension; other dimensions count from 0.
        TABLE: the fields in the table, if it is not all of them; a record may write a table of other rows itself.

    Example:
        >>> from dataclasses import dataclass
        >>> from resnet_paths.tables import data_frame
        >>> @dataclass(frozen=True, eq=False)
        ... class Errors(Record):
        ...     DIMENSIONS = {"values": "block"}
        ...     COORDINATES = {"block": "names"}
        ...     names: tuple[str, ...]
        ...     values: np.ndarray
        ...     metric: str = "error"
        ...     def to_pandas(self):
        ...         return data_frame({"block": self.names, self.metric: self.values})
        >>> errors = Errors(("layer1.0", "layer1.1"), np.array([0.25, 0.5]))
        >>> errors
        Errors(names=('layer1.0', 'layer1.1'), values=float64 (2,), metric='error')
        >>> dataset = errors.to_xarray()
        >>> dataset["values"].sel(block="layer1.1").item(), dataset.attrs
        (0.5, {'metric': 'error'})
    """

    DIMENSIONS: ClassVar[Mapping[str, str]] = {}
    COORDINATES: ClassVar[Mapping[str, str]] = {}
    TABLE: ClassVar[tuple[str, ...]] = ()

    def to_pandas(self) -> pd.DataFrame:
        """The fields of `TABLE` with one row per combination of their coordinates."""
        if not self.DIMENSIONS:
            raise NotImplementedError(f"expected {type(self).__name__} to declare dimensions or its own table")
        data = self.to_xarray()
        columns = [name for field, name, _ in self._arrays() if not self.TABLE or field in self.TABLE]
        frame: pd.DataFrame = data[columns].to_dataframe().reset_index()
        frame.attrs.update(data.attrs)
        return frame

    def to_xarray(self) -> xr.Dataset:
        """The arrays with their declared dimensions; scalars and provenance become attributes.

        A record with ragged parts declares no dimensions; it returns the columns of its table along ``row``.
        """
        if not self.DIMENSIONS:
            table = self.to_pandas()
            columns = {str(name): (["row"], column.to_numpy()) for name, column in table.items()}
            return labelled_arrays(columns, {}, _facts(self, set()))
        variables = {name: (_named(self.DIMENSIONS[field], value), value) for field, name, value in self._arrays()}
        used = {dim for dims, _ in variables.values() for dim in dims}
        coordinates = {
            dim: getattr(self, field)
            for dim, field in self.COORDINATES.items()
            if dim in used and getattr(self, field) is not None
        }
        facts = _facts(self, {*self.DIMENSIONS, *self.COORDINATES.values()})
        return labelled_arrays(variables, coordinates, facts)

    def _arrays(self) -> Iterator[tuple[str, str, Any]]:
        """(field, variable, value) of every array that is not None or empty."""
        for field in self.DIMENSIONS:
            value = getattr(self, field)
            if isinstance(value, Mapping):
                yield from ((field, key, item) for key, item in value.items())
            elif value is not None and not (isinstance(value, tuple) and not value):
                yield field, field, value

    def save(self, path: str | Path) -> Path:
        """Write the record to one ``.npz`` file atomically; :meth:`load` reads it back bit for bit.

        Raises:
            ValueError: the name has another ending, or a field cannot be saved (a model, a function).
        """
        return save_record(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record of this class; ``Record.load`` reads any. No code in the file is run.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is damaged or contains a record of another class.
        """
        record = load_record(path)
        if not isinstance(record, cls):
            raise ValueError(f"expected a file with {cls.__name__}, got {path}, which contains {type(record).__name__}")
        return record


def as_array(value: Any) -> np.ndarray:
    """A tensor or a sequence as a NumPy array on the CPU (bfloat16, which NumPy lacks, as float32).

    Example:
        >>> as_array(torch.ones(2, dtype=torch.bfloat16)).dtype, as_array((1, 2)).shape
        (dtype('float32'), (2,))
    """
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu()
        return (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
    return np.asarray(value)


def labelled_arrays(
    variables: Mapping[str, tuple[Sequence[str], Any]], coordinates: Mapping[str, Any], facts: Mapping[str, Any]
) -> xr.Dataset:
    """Named arrays as an xarray data set.

    Args:
        variables: dimensions and values by name.
        coordinates: coordinates by dimension; a dimension without them counts from 0.
        facts: values that become attributes.
    """
    arrays = {name: (tuple(dims), as_array(values)) for name, (dims, values) in variables.items()}
    dataset = data_set(arrays, coords={dim: as_array(labels) for dim, labels in coordinates.items()}, attrs=dict(facts))
    return dataset.assign_coords(
        {dim: np.arange(dataset.sizes[dim]) for dim in dataset.dims if dim not in dataset.coords}
    )


def _named(declared: str, value: Any) -> list[str]:
    """The dimensions of an array, with names for those that ``...`` stands for.

    Of names after it, an array has as many as it has dimensions left: an output of one number has no ``class``.
    """
    names = declared.split()
    if "..." not in names:
        return names
    at, further = names.index("..."), as_array(value).ndim - len(names) + 1
    last = names[at + 1 :][: max(len(names) - 1 + further - at, 0)]
    return [*names[:at], *(f"axis_{axis}" for axis in range(further)), *last]


def _facts(record: Any, left_out: set[str], prefix: str = "") -> dict[str, Any]:
    """The scalars and strings of a record and of the dataclasses inside it (its provenance), by name."""
    facts: dict[str, Any] = {}
    for name in (field.name for field in fields(record) if field.name not in left_out):
        value = getattr(record, name)
        if is_dataclass(value) and not isinstance(value, type):
            facts |= _facts(value, set(), "" if name == "source" else f"{prefix}{name}_")
        elif isinstance(value, bool | int | float | str):
            facts[f"{prefix}{name}"] = value
    return facts
