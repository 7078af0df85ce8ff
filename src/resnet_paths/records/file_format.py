"""Records as files.

One ``.npz`` per record: arrays as NumPy writes them, and under ``record`` a JSON text with everything else, which
refers to the arrays by name. Not pickle, because a downloaded file must not run code; not JSON alone, because records
contain arrays of images by blocks by lengths. A dataclass is stored field by field and rebuilt by calling its class, so
that a file that was tampered with goes through the same checks as any other input. Only dataclasses of this library are
called.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import existing_file, read_arrays, whole_file

_LIBRARY = __name__.partition(".")[0]
_KEY = "record"
FORMAT = 1


def save_record(record: Any, path: str | Path) -> Path:
    """Write a record; see :meth:`Record.save`."""
    if Path(path).suffix != ".npz":
        raise ValueError(f"expected a file name that ends in .npz, got {str(path)!r}")
    arrays: dict[str, np.ndarray] = {}
    content = {"format": FORMAT, "content": _as_json(record, arrays, type(record).__name__)}
    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **{_KEY: text, **arrays})  # type: ignore[arg-type]  # signature varies with NumPy
    return Path(path)


def load_record(path: str | Path) -> Any:
    """Read a record of any kind from a file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or contains something else.
    """
    arrays = read_arrays(existing_file(path, "a record"), "a record")
    try:
        content = json.loads(arrays[_KEY].tobytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} of another release")
        return _rebuilt(content["content"], arrays)
    except (AttributeError, ImportError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"expected a record written by its save method, got {path}: {reason}") from error


def _as_json(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    """A value as JSON; its arrays are moved to `arrays` and replaced by their names."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum | np.generic)):
        return value
    if isinstance(value, complex) and not isinstance(value, np.generic):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, torch.Tensor):
        return {"tensor": _stored(_bits(value), arrays), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            cells = [_as_json(cell, arrays, where) for cell in value.ravel()]
            return {"cells": cells, "shape": list(value.shape)}
        return {"array" if isinstance(value, np.ndarray) else "number": _stored(np.asarray(value), arrays)}
    if isinstance(value, tuple | list):
        items = [_as_json(item, arrays, where) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        pairs = [
            [_as_json(key, arrays, where), _as_json(item, arrays, f"{where}[{key!r}]")] for key, item in value.items()
        ]
        return {"mapping": pairs}
    if isinstance(value, Path):
        return {"path": str(value)}
    if _is_library_dataclass(type(value)):
        parts = {
            field.name: _as_json(getattr(value, field.name), arrays, f"{where}.{field.name}")
            for field in fields(value)
            if field.init
        }
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "fields": parts}
    raise ValueError(
        f"expected numbers, strings and arrays in {where}, got a {type(value).__name__}, which cannot be saved"
    )


def _stored(value: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    name = f"array{len(arrays)}"
    arrays[name] = value
    return name


def _bits(value: torch.Tensor) -> np.ndarray:
    """A tensor as an array; dtypes that NumPy lacks become integers with the same bits."""
    plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
    try:
        return plain.numpy()
    except TypeError:
        return plain.view({1: torch.uint8, 2: torch.int16}[plain.element_size()]).numpy()


def _is_library_dataclass(kind: type) -> bool:
    return is_dataclass(kind) and kind.__module__.partition(".")[0] == _LIBRARY


def _rebuilt(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_rebuilt(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "cells" in value:
        cells = np.empty(len(value["cells"]), object)
        for index, cell in enumerate(value["cells"]):
            cells[index] = _rebuilt(cell, arrays)
        return cells.reshape(value["shape"])
    if "complex" in value:
        return complex(*value["complex"])
    if "number" in value:
        return arrays[value["number"]][()]
    if "tensor" in value:
        plain, kind = torch.from_numpy(arrays[value["tensor"]].copy()), getattr(torch, value["dtype"])
        return plain if plain.dtype == kind else plain.view(kind)
    if "tuple" in value:
        return tuple(_rebuilt(item, arrays) for item in value["tuple"])
    if "mapping" in value:
        return {_rebuilt(key, arrays): _rebuilt(item, arrays) for key, item in value["mapping"]}
    if "path" in value:
        return Path(value["path"])
    module, _, name = value["class"].partition(":")
    if module.partition(".")[0] != _LIBRARY:
        raise ValueError(f"{module} is not a module of this library")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and _is_library_dataclass(kind)):
        raise ValueError(f"{name} of {module} is not a record")
    return kind(**{field: _rebuilt(item, arrays) for field, item in value["fields"].items()})
