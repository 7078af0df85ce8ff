"""Results as one file: npz, or NetCDF through xarray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..files import existing_file, read_arrays, whole_file
from ._provenance import SweepProvenance
from .points import plain_point
from .result import SweepResult
from .values import decode_values, encode_values

FORMAT = "resnet_paths sweep 1"


def save(result: SweepResult, path: Path) -> None:
    """See `SweepResult.save`."""
    if path.suffix == ".npz":
        with whole_file(path) as partial:
            _write_npz(result, partial)
    elif path.suffix == ".nc":
        with whole_file(path, locks_itself=True) as partial:
            _write_netcdf(result, partial)
    else:
        raise ValueError(f"expected a file name that ends in .npz or .nc, got {path.name!r}")


def _write_npz(result: SweepResult, path: Path) -> None:
    about = {
        "format": FORMAT,
        "points": [_tagged(point) for point in result.points],
        "errors": result.errors,
        "notes": result.notes,
        "provenance": asdict(result.provenance),
        "names": list(result.values),
    }
    arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps(about))}
    for name, column in result.values.items():
        if column.dtype == object:
            arrays[f"bytes:{name}"], arrays[f"stops:{name}"] = _packed(column)
        else:
            arrays[f"value:{name}"] = column
    np.savez_compressed(path, finished=result.finished, seconds=result.seconds, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> SweepResult:
    """See `SweepResult.load`."""
    what = "a result of a sweep"
    arrays = read_arrays(existing_file(path, what), what)
    try:
        about = json.loads(str(arrays["about"]))
        made_by = about.get("format")
    except (KeyError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a result of a sweep saved as .npz, got {path.name!r} ({error})") from error
    if made_by != FORMAT:
        raise ValueError(f"expected {FORMAT!r}, got {made_by!r}: use the version that wrote {path.name!r}")
    try:
        return _from_arrays(about, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(
            f"expected a whole result of a sweep, got {path.name!r}, in which something is missing or altered: "
            f"{type(error).__name__}: {error}; save it again"
        ) from error


def _from_arrays(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> SweepResult:
    return SweepResult(
        points=tuple(_untagged(point) for point in about["points"]),
        values={name: _column(arrays, name) for name in about["names"]},
        finished=arrays["finished"],
        errors={int(i): error for i, error in about["errors"].items()},
        notes={int(i): tuple(notes) for i, notes in about["notes"].items()},
        seconds=arrays["seconds"],
        provenance=SweepProvenance(**about["provenance"]),
    )


def _packed(column: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells of different shapes and types, one after the other."""
    cells = [b"" if value is None else encode_values({"value": value}) for value in column]
    content = np.frombuffer(b"".join(cells), np.uint8)
    return content, np.cumsum([len(cell) for cell in cells], dtype=np.int64)


def _column(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if f"value:{name}" in arrays:
        return arrays[f"value:{name}"]
    return _unpacked(arrays[f"bytes:{name}"], arrays[f"stops:{name}"])


def _unpacked(content: np.ndarray, stops: np.ndarray) -> np.ndarray:
    column = np.full(len(stops), None, dtype=object)
    start = 0
    for i, stop in enumerate(stops.tolist()):
        if stop > start:
            column[i] = decode_values(content[start:stop].tobytes())["value"]
        start = stop
    return column


def _tagged(point: Any) -> Any:
    """A point as JSON that tells mappings from complex numbers."""
    if isinstance(point, complex):
        return {"complex": [point.real, point.imag]}
    if isinstance(point, dict):
        return {"mapping": {name: _tagged(value) for name, value in point.items()}}
    return [_tagged(item) for item in point] if isinstance(point, tuple) else point


def _untagged(entry: Any) -> Any:
    if isinstance(entry, dict) and "complex" in entry:
        return complex(*entry["complex"])
    if isinstance(entry, dict):
        return {name: _untagged(value) for name, value in entry["mapping"].items()}
    return plain_point([_untagged(item) for item in entry]) if isinstance(entry, list) else entry


def _write_netcdf(result: SweepResult, path: Path) -> None:
    dataset = result.to_xarray()
    for name, variable in dataset.variables.items():
        if variable.dtype == object or variable.dtype.kind == "c":
            raise ValueError(f"NetCDF cannot hold {name!r} ({variable.dtype}): save as .npz")
        if variable.dtype == bool:
            dataset[name] = variable.astype(np.int8)
    try:
        dataset.to_netcdf(path, engine="netcdf4")
    except (ImportError, ValueError) as error:
        raise ImportError(
            f"cannot write NetCDF ({error}): pip install 'resnet-paths[netcdf]', or save as .npz"
        ) from error
