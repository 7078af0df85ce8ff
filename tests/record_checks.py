"""What every record must do, checked on real ones wherever tests make them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_paths.records import Record


def records_in(value: Any) -> list[Record]:
    """The records that a function returned, alone or in a list."""
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, Record)]


def check_record(record: Record, folder: Path, *, shown: bool = True) -> None:
    """Its arrays have declared dimensions, and a file gives back the same record, bit by bit; `shown`: it is drawn."""
    table, arrays = record.to_pandas(), record.to_xarray()
    assert len(table.columns)
    assert arrays.data_vars or arrays.attrs
    assert not shown or "<table" in record._repr_html_()
    if type(record).to_xarray is Record.to_xarray and record.DIMENSIONS:
        bare = [field.name for field in dataclasses.fields(record) if _is_array(getattr(record, field.name))]
        undeclared = {*bare} - {*record.DIMENSIONS} - {*record.COORDINATES.values()}
        assert not undeclared, f"arrays of {type(record).__name__} without dimensions: {undeclared}"
    if type(record).save is Record.save:
        path = record.save(folder / "record.npz")
        again = type(record).load(path)
        assert type(again) is type(record)
        assert same(record, again)
        read = again.to_xarray()
        assert arrays.equals(read)
        assert same(dict(arrays.attrs), dict(read.attrs))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor) and value.ndim > 0


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, NaN like NaN, of the same types."""
    if type(one) is not type(other) and not isinstance(one, Mapping):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(torch.nan_to_num(one.cpu()), torch.nan_to_num(other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))
