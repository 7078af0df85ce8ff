"""Records as files.

One ``.npz``: arrays as NumPy writes them, and under ``record`` a JSON text with everything else, in which an array
stands as a number. NumPy's own archive rather than pickle, since a file from elsewhere must not run code, and rather
than JSON alone, since records hold images by blocks by lengths. What a class is made of is written field by field and
put together by calling the class, so that a file that was tampered with is checked like any other input; only frozen
dataclasses of this library are called.
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

_HOUSE = __name__.partition(".")[0]
_KEY = "record"
FORMAT = 1


def save_record(record: Any, path: str | Path) -> Path:
    """Write a record; see :meth:`Record.save`."""
    if Path(path).suffix != ".npz":
        raise ValueError(f"expected a name that ends in .npz, got {str(path)!r}")
    arrays: dict[str, np.ndarray] = {}
    content = {"format": FORMAT, "content": _plain(record, arrays, type(record).__name__)}
    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **{_KEY: text, **arrays})  # type: ignore[arg-type]  # the options of NumPy's releases differ
    return Path(path)


def load_record(path: str | Path) -> Any:
    """The record in a file, of whatever kind.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that holds something else.
    """
    arrays = read_arrays(existing_file(path, "a record"), "a record")
    try:
        content = json.loads(arrays[_KEY].tobytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} of another release")
        return _made(content["content"], arrays)
    except (AttributeError, ImportError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"expected a record written by its save method, got {path}: {reason}") from error


def _plain(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    """A value as JSON; its arrays go to `arrays`, and their names stand in their places."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum | np.generic)):
        return value
    if isinstance(value, complex) and not isinstance(value, np.generic):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, torch.Tensor):
        return {"tensor": _kept(_bits(value), arrays), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            cells = [_plain(cell, arrays, where) for cell in value.ravel()]
            return {"cells": cells, "shape": list(value.shape)}
        return {"array" if isinstance(value, np.ndarray) else "number": _kept(np.asarray(value), arrays)}
    if isinstance(value, tuple | list):
        items = [_plain(item, arrays, where) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        pairs = [[_plain(key, arrays, where), _plain(item, arrays, f"{where}[{key!r}]")] for key, item in value.items()]
        return {"mapping": pairs}
    if isinstance(value, Path):
        return {"path": str(value)}
    if _is_ours(type(value)):
        parts = {
            field.name: _plain(getattr(value, field.name), arrays, f"{where}.{field.name}")
            for field in fields(value)
            if field.init
        }
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "fields": parts}
    raise ValueError(
        f"expected numbers, texts and arrays in {where}, got a {type(value).__name__}, which no file can hold"
    )


def _kept(value: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    name = f"array{len(arrays)}"
    arrays[name] = value
    return name


def _bits(value: torch.Tensor) -> np.ndarray:
    """A tensor's numbers; those of types that NumPy lacks as whole numbers of the same bits."""
    plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
    try:
        return plain.numpy()
    except TypeError:
        return plain.view({1: torch.uint8, 2: torch.int16}[plain.element_size()]).numpy()


def _is_ours(kind: type) -> bool:
    return is_dataclass(kind) and kind.__module__.partition(".")[0] == _HOUSE


def _made(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_made(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "cells" in value:
        cells = np.empty(len(value["cells"]), object)
        for index, cell in enumerate(value["cells"]):
            cells[index] = _made(cell, arrays)
        return cells.reshape(value["shape"])
    if "complex" in value:
        return complex(*value["complex"])
    if "number" in value:
        return arrays[value["number"]][()]
    if "tensor" in value:
        plain, kind = torch.from_numpy(arrays[value["tensor"]].copy()), getattr(torch, value["dtype"])
        return plain if plain.dtype == kind else plain.view(kind)
    if "tuple" in value:
        return tuple(_made(item, arrays) for item in value["tuple"])
    if "mapping" in value:
        return {_made(key, arrays): _made(item, arrays) for key, item in value["mapping"]}
    if "path" in value:
        return Path(value["path"])
    module, _, name = value["class"].partition(":")
    if module.partition(".")[0] != _HOUSE:
        raise ValueError(f"{module} is no module of this library")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and _is_ours(kind)):
        raise ValueError(f"{name} of {module} is no record")
    return kind(**{field: _made(item, arrays) for field, item in value["fields"].items()})
