"""The one shape of a result.

Every analysis returns a frozen dataclass that derives from :class:`Record`. It declares which of its fields are arrays
over which dimensions, and from this alone become the labelled arrays of xarray; fields without dimensions are facts
about the whole and become attributes. The table that people look at is each record's own, since what a row is differs
(a block, a draw, a length). Records hold no analysis and no picture: they can be read, on any machine, without the
model and the data that they came from.
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
    import xarray as xr


class Record(Shown):
    """A result: what was found, and where it came from.

    Attributes:
        DIMENSIONS: for each field that is an array, the names of its dimensions, as in ``"block image"``. A field that
            maps names to arrays gives one variable per name; one that is None or empty is left out.
        COORDINATES: for a dimension, the field with its values; other dimensions count from 0.

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
        >>> found = errors.to_xarray()
        >>> found["values"].sel(block="layer1.1").item(), found.attrs
        (0.5, {'metric': 'error'})
    """

    DIMENSIONS: ClassVar[Mapping[str, str]] = {}
    COORDINATES: ClassVar[Mapping[str, str]] = {}

    def to_xarray(self) -> xr.Dataset:
        """The arrays by their declared dimensions, with facts and provenance as attributes.

        A record of ragged parts, which declares none, gives the columns of its table along ``row``.
        """
        if not self.DIMENSIONS:
            table = self.to_pandas()
            columns = {str(name): (["row"], column.to_numpy()) for name, column in table.items()}
            return labelled_arrays(columns, {}, _facts(self, set()))
        variables = {name: (self.DIMENSIONS[field].split(), value) for field, name, value in self._arrays()}
        used = {dim for dims, _ in variables.values() for dim in dims}
        coordinates = {
            dim: getattr(self, field)
            for dim, field in self.COORDINATES.items()
            if dim in used and getattr(self, field) is not None
        }
        facts = _facts(self, {*self.DIMENSIONS, *self.COORDINATES.values()})
        return labelled_arrays(variables, coordinates, facts)

    def _arrays(self) -> Iterator[tuple[str, str, Any]]:
        """(field, variable, value) of all arrays that are there."""
        for field in self.DIMENSIONS:
            value = getattr(self, field)
            if isinstance(value, Mapping):
                yield from ((field, key, item) for key, item in value.items())
            elif value is not None and not (isinstance(value, tuple) and not value):
                yield field, field, value

    def save(self, path: str | Path) -> Path:
        """Write the record to one file (``.npz``), whole or not at all; :meth:`load` reads it back, bit by bit.

        Raises:
            ValueError: another ending, or a field that holds what no file can (a model, a function).
        """
        return save_record(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record of this kind; ``Record.load`` reads any. No code in the file is run.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, or a record of another kind.
        """
        record = load_record(path)
        if not isinstance(record, cls):
            raise ValueError(f"expected a file with {cls.__name__}, got {path}, which holds {type(record).__name__}")
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
        variables: for each name, its dimensions and its values.
        coordinates: values of dimensions; a dimension without them counts from 0.
        facts: become attributes.
    """
    data = {name: (tuple(dims), as_array(values)) for name, (dims, values) in variables.items()}
    made = data_set(data, coords={dim: as_array(labels) for dim, labels in coordinates.items()}, attrs=dict(facts))
    return made.assign_coords({dim: np.arange(made.sizes[dim]) for dim in made.dims if dim not in made.coords})


def _facts(record: Any, left_out: set[str], prefix: str = "") -> dict[str, Any]:
    """Plain values of a record, and of the dataclasses in it (its provenance), by name."""
    facts: dict[str, Any] = {}
    for name in (field.name for field in fields(record) if field.name not in left_out):
        value = getattr(record, name)
        if is_dataclass(value) and not isinstance(value, type):
            facts |= _facts(value, set(), "" if name == "source" else f"{prefix}{name}_")
        elif isinstance(value, bool | int | float | str):
            facts[f"{prefix}{name}"] = value
    return facts
