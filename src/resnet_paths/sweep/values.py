"""Values: what a function may return, and the bytes in which the journal keeps it exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

Value = bool | int | float | complex | str | np.ndarray
_SCALARS = (bool, int, float, complex, str)


def plain_values(returned: Any) -> dict[str, Value]:
    """What a function returned, as names with numbers, strings and arrays; a single value is called `value`.

    Tensors become arrays (types that numpy lacks, such as bfloat16, widen to float32, which is exact), arrays
    of no dimension become numbers. NaN, infinities and zeros are values like any other.

    Raises:
        TypeError: for anything else.

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
    wrong = [name for name in returned if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"expected names of values as strings, got {wrong[0]!r}")
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
    """Bytes from which `decode_values` makes the same values, bit by bit.

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
    """The values in bytes written by `encode_values`."""
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
