"""Surfaces as files: npz to read back, VTK for ParaView."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import checked
from ..files import existing_file, read_arrays, whole_file
from .record import Surface

_ARRAYS = ("x", "y", "finished", "seconds")
_FACTS = (
    "x_name", "y_name", "norms", "cosine", "batchnorm", "batch_size", "dtype", "data", "images", "model_fingerprint",
    "data_fingerprint",
)  # fmt: skip


@checked
def save_surface(surface: Surface, path: str | Path) -> Path:
    """Writes a surface as an npz file: every number bit by bit, NaN and infinities too.

    Raises:
        ValueError: another ending.
    """
    target = _target(path, ".npz")
    arrays = {name: getattr(surface, name) for name in _ARRAYS if getattr(surface, name) is not None}
    arrays |= {f"value:{name}": array for name, array in surface.values.items()}
    arrays |= {f"error:{name}": array for name, array in surface.errors.items()}
    failures = [[*place, error] for place, error in surface.failures.items()]
    facts = {name: getattr(surface, name) for name in _FACTS} | {"failures": failures}
    with whole_file(target) as partial:
        np.savez_compressed(partial, facts=np.array(json.dumps(facts)), **arrays)
    return target


@checked
def load_surface(path: str | Path) -> Surface:
    """Reads what :func:`save_surface` wrote; runs no code from it.

    Raises:
        ValueError: a file of something else.
    """
    source = existing_file(path, "a surface")
    arrays = read_arrays(source, "a surface")
    if "facts" not in arrays or "x" not in arrays:
        raise ValueError(f"expected a surface, got {source.name} with {sorted(arrays)[:5]}")
    try:
        return _from_arrays(arrays)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"expected a whole surface in {source.name}, in which something is missing or altered: "
            f"{type(error).__name__}: {error}; save it again"
        ) from error


def _from_arrays(arrays: dict[str, np.ndarray]) -> Surface:
    facts: dict[str, Any] = json.loads(str(arrays.pop("facts")))
    facts["norms"] = tuple(facts["norms"])
    facts["failures"] = {(row, column): error for row, column, error in facts["failures"]}
    parts = {
        kind: {name.partition(":")[2]: array for name, array in arrays.items() if name.startswith(f"{kind}:")}
        for kind in ("value", "error")
    }
    facts |= {name: arrays.get(name) for name in _ARRAYS}
    return Surface(values=parts["value"], errors=parts["error"], **facts)


@checked
def save_vtk(surface: Surface, path: str | Path) -> Path:
    """Writes a surface for ParaView: a legacy VTK file (version 3.0, binary) with a rectilinear grid.

    Each metric is a point array over (x, y), with its standard error as METRIC_se; "Warp By Scalar" makes it a
    surface. NaN and infinities are written as they are (ParaView colours NaN apart).

    Raises:
        ValueError: another ending.

    Source: The VTK User's Guide, "VTK file formats", simple legacy formats.
    """
    target = _target(path, ".vtk")
    y = np.zeros(1) if surface.y is None else surface.y
    title = f"{surface.data}: {surface.x_name}, {surface.y_name or 'no second axis'}"
    title = title.encode("ascii", "replace").decode()[:255].replace("\n", " ")
    head = f"# vtk DataFile Version 3.0\n{title}\nBINARY\nDATASET RECTILINEAR_GRID\n"
    content = [f"{head}DIMENSIONS {len(surface.x)} {len(y)} 1\n".encode()]
    for axis, values in (("X", surface.x), ("Y", y), ("Z", np.zeros(1))):
        content += [f"{axis}_COORDINATES {len(values)} double\n".encode(), _doubles(values)]
    content.append(f"POINT_DATA {surface.finished.size}\n".encode())
    columns = dict(surface.values) | {f"{name}_se": array for name, array in surface.errors.items()}
    for name, array in columns.items():
        label = "_".join(name.split())
        content += [f"SCALARS {label} double 1\nLOOKUP_TABLE default\n".encode(), _doubles(array)]
    with whole_file(target) as partial:
        partial.write_bytes(b"".join(content))
    return target


def _doubles(values: np.ndarray) -> bytes:
    """Big-endian, x running fastest: the rows of an array (rows, columns) one after the other."""
    return np.ascontiguousarray(values, dtype=">f8").tobytes() + b"\n"


def _target(path: str | Path, ending: str) -> Path:
    target = Path(path)
    if target.suffix != ending:
        raise ValueError(f"expected a file name that ends in {ending}, got {target.name}")
    return target
