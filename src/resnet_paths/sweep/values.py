"""Values: what a function may return, their bytes in the journal, and the columns of the result.

The bytes are a line of JSON followed by the arrays. For two numbers, NumPy's own archive takes 95 µs and 520 bytes
instead of 7 µs and 33 bytes, and a sweep may store a hundred thousand points; JSON alone has no arrays; and pickle
would execute whatever somebody put into a journal. Values go through the same bytes even without a journal, so that a
run that computes them and one that reads them return the same types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

Value = bool | int | float | complex | str | np.ndarray
_SCALARS = (bool, int, float, complex, str)
_LARGEST_EXACT = 2**53
"""Every integer up to this one is exact as a float64."""


def plain_values(returned: Any) -> dict[str, Value]:
    """The returned numbers, strings and arrays by name; a single value gets the name `value`.

    Tensors become arrays (dtypes that NumPy lacks, such as bfloat16, become float32, which is exact), and arrays
    without dimensions become numbers. NaN and infinities are values like any other.

    Raises:
        TypeError: the function returned anything else.

    Example:
        >>> plain_values({"loss": torch.tensor(0.5), "rows": np.ones(2)})
        {'loss': 0.5, 'rows': array([1., 1.])}
        >>> plain_values(float("nan"))
        {'value': nan}
    """
    if not isinstance(returned, Mapping):
        return {"value": _plain(returned, "value")}
    if not returned:
        raise TypeError("expected a function that returns values, got an empty mapping")
    not_strings = [name for name in returned if not isinstance(name, str)]
    if not_strings:
        raise TypeError(f"expected strings as names of values, got {not_strings[0]!r}")
    return {name: _plain(value, name) for name, value in returned.items()}


def _plain(value: Any, name: str) -> Value:
    if type(value) in _SCALARS:
        scalar: Value = value
        return scalar
    if isinstance(value, torch.Tensor):
        value = _array(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufcSUmM":
        return value.item() if value.ndim == 0 and value.dtype.kind in "biufcU" else np.array(value, order="C")
    raise TypeError(
        f"expected numbers, strings, arrays or tensors, got {type(value).__name__} for {name!r}: "
        "return a mapping of names to such values, with None written as NaN"
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu()
    if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()
    return tensor.numpy()


def encode_values(values: Mapping[str, Value]) -> bytes:
    """Bytes from which `decode_values` restores the same values bit for bit.

    Example:
        >>> decode_values(encode_values({"loss": 0.1, "rows": np.zeros((0, 2))}))
        {'loss': 0.1, 'rows': array([], shape=(0, 2), dtype=float64)}
    """
    header: dict[str, Any] = {}
    arrays = []
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            header[name] = {"dtype": value.dtype.str, "shape": value.shape}
            arrays.append(value.tobytes())
        else:
            header[name] = {"complex": [value.real, value.imag]} if isinstance(value, complex) else value
    text = json.dumps(header).encode()
    return b"".join([len(text).to_bytes(4, "big"), text, *arrays])


def decode_values(content: bytes) -> dict[str, Value]:
    """The values in the bytes of `encode_values`."""
    stop = 4 + int.from_bytes(content[:4], "big")
    values: dict[str, Value] = {}
    for name, entry in json.loads(content[4:stop]).items():
        if not isinstance(entry, dict):
            values[name] = entry
        elif "complex" in entry:
            values[name] = complex(*entry["complex"])
        else:
            dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
            start, stop = stop, stop + dtype.itemsize * int(np.prod(shape))
            values[name] = np.frombuffer(content[start:stop], dtype).reshape(shape).copy()
    return values


def columns(rows: Sequence[Mapping[str, Value] | None]) -> dict[str, np.ndarray]:
    """The values of all points as one exact array per name, with gaps for points without values.

    Gaps are NaN for floats. Other dtypes become objects with None if there are gaps or the shapes differ.

    Example:
        >>> columns([{"loss": 0.5, "n": 1}, None])
        {'loss': array([0.5, nan]), 'n': array([1, None], dtype=object)}
    """
    names = dict.fromkeys(name for row in rows if row is not None for name in row)
    return {name: _column([None if row is None else row.get(name) for row in rows]) for name in names}


def _column(cells: Sequence[Value | None]) -> np.ndarray:
    values = [cell for cell in cells if cell is not None]
    dtype, shape = common_type(values)
    gaps = len(values) < len(cells)
    if dtype is None or (gaps and dtype.kind not in "fc"):
        return objects(cells)
    if gaps:
        values = [np.full(shape, np.nan, dtype) if cell is None else cell for cell in cells]
    return np.stack(values) if shape else np.array(values, dtype)


def objects(cells: Sequence[Any]) -> np.ndarray:
    """An object array of the cells; ``np.array`` would convert sequences in them."""
    column = np.empty(len(cells), object)
    for index, cell in enumerate(cells):
        column[index] = cell
    return column


def common_type(values: Sequence[Any]) -> tuple[np.dtype | None, tuple[int, ...]]:
    """A dtype and a shape that represent all values exactly, or None as dtype."""
    if isinstance(values[0], np.ndarray):
        first = values[0]
        same = all(isinstance(v, np.ndarray) and v.dtype == first.dtype and v.shape == first.shape for v in values)
        return (first.dtype, first.shape) if same else (None, ())
    kinds = set(map(type, values))
    if kinds == {int}:
        return (np.dtype(np.int64) if all(-(2**63) <= v < 2**63 for v in values) else None), ()
    if kinds <= {int, float} and all(abs(v) <= _LARGEST_EXACT for v in values if type(v) is int):
        return np.dtype(np.float64), ()
    return (np.dtype(kinds.pop()), ()) if kinds in ({bool}, {complex}) else (None, ())
