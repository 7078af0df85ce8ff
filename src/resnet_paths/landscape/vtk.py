"""Surfaces as files for ParaView."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..arguments import checked
from ..files import whole_file
from .surface_record import Surface


@checked
def save_vtk(surface: Surface, path: str | Path) -> Path:
    """Write a surface for ParaView: a legacy VTK file (version 3.0, binary) with a rectilinear grid.

    Each metric is a point array over (x, y), with its standard error as METRIC_se; "Warp By Scalar" makes it a
    surface. NaN and infinities are written as they are (ParaView has a separate colour for NaN).

    Raises:
        ValueError: another ending.

    Source: The VTK User's Guide, "VTK file formats", simple legacy formats.
    """
    target = _target(path, ".vtk")
    y = np.zeros(1) if surface.y is None else surface.y
    title = f"{surface.source.name}: {surface.x_name}, {surface.y_name or 'no second axis'}"
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
    """Big-endian, x varying fastest: the rows of an array (rows, columns) one after another."""
    return np.ascontiguousarray(values, dtype=">f8").tobytes() + b"\n"


def _target(path: str | Path, ending: str) -> Path:
    target = Path(path)
    if target.suffix != ending:
        raise ValueError(f"expected a file name that ends in {ending}, got {target.name}")
    return target
