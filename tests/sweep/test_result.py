import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_paths.sweep import SweepResult, grid, sweep


def run(function: Any, points: Any, **options: Any) -> SweepResult:
    return sweep(function, points, progress=False, **options)


def mixed(point: dict, context: None, seed: int) -> dict[str, Any]:
    if point["b"] == 3:
        raise ValueError("three")
    return {
        "loss": math.nan if point["b"] == 2 else point["a"] * 10 + point["b"],
        "count": point["b"],
        "ok": True,
        "row": np.full(4, point["a"], np.float32),
        "ragged": np.arange(point["b"]),
        "z": 1j,
        "name": "x",
    }


POINTS = grid(a=[0.5, -1.0], b=range(4))


def test_pandas_has_a_row_a_point() -> None:
    table = run(mixed, POINTS).to_pandas()
    assert list(table.columns) == ["a", "b", "loss", "count", "ok", "row", "ragged", "z", "name", "error", "seconds"]
    assert table["a"].tolist() == [0.5] * 4 + [-1.0] * 4
    assert table["error"].tolist()[3] == "ValueError: three"
    assert table["error"].isna().sum() == 6
    assert table["loss"].tolist()[:2] == [5, 6]
    assert table["loss"].isna().sum() == 4
    assert table.attrs["provenance"]["seed"] == 0


def test_grids_become_dimensions_whatever_the_order_of_the_points() -> None:
    points = list(POINTS)
    random.Random(0).shuffle(points)
    data = run(mixed, points).to_xarray()
    assert dict(data.sizes) == {"a": 2, "b": 4, "row_0": 4}
    for a in (0.5, -1.0):
        for b in (0, 1):
            assert data["loss"].sel(a=a, b=b) == a * 10 + b
        assert math.isnan(data["loss"].sel(a=a, b=2))
        assert bool(data["finished"].sel(a=a, b=2))
        assert not bool(data["finished"].sel(a=a, b=3))
        assert (data["row"].sel(a=a, b=1) == a).all()
        assert data["ragged"].sel(a=a, b=1).item().tolist() == [0]


def test_a_grid_that_is_not_square_has_its_cells_in_place() -> None:
    data = run(lambda p, c, s: 100 * p["r"] + p["c"], grid(r=range(3), c=range(5))).to_xarray()
    assert data["value"].dims == ("r", "c")
    assert (data["value"].values == 100 * np.arange(3)[:, None] + np.arange(5)).all()


@pytest.mark.parametrize(
    ("points", "dims", "coordinates"),
    [
        ([(0, 1), (0, 2), (3, 1), (3, 2)], ("p0", "p1"), {"p0", "p1"}),
        ([(0, 1), (5, 2)], ("point",), {"p0", "p1"}),
        ([0.1, 0.7], ("point",), {"point"}),
        ([{"a": 1}, {"b": 2}], ("point",), {"a", "b"}),
        ([{"drop": (1, 2)}, {"drop": ()}], ("drop",), {"drop"}),
        ([{"a": {"x": 1}}, {"a": {"x": 2}}], ("point",), {"a"}),
        ([1, 1, 2], ("point",), {"label"}),
        ([1, (2,)], ("point",), {"point"}),
    ],
)
def test_other_points_lie_in_a_row(points: list, dims: tuple, coordinates: set) -> None:
    result = run(lambda p, c, s: 1.0, points)
    data = result.to_xarray()
    assert data["value"].dims == dims
    assert set(data.coords) == coordinates
    assert len(result.to_pandas()) == len(points)


def test_a_value_may_bear_the_name_of_a_coordinate() -> None:
    result = run(lambda p, c, s: {"a": 5, "error": 1, "seconds": 2}, [{"a": 1}, {"a": 2}])
    assert result.to_pandas()["a_value"].tolist() == [5, 5]
    assert result.to_xarray()["a_value"].values.tolist() == [5, 5]


def test_npz_keeps_everything(tmp_path: Path) -> None:
    result = run(mixed, [*POINTS, {"a": (1, (2j, None)), "b": 3}], seed=4)
    result.save(tmp_path / "r.npz")
    back = SweepResult.load(tmp_path / "r.npz")
    assert back.points == result.points
    assert back.errors == result.errors
    assert back.provenance == result.provenance
    assert back.values.keys() == result.values.keys()
    for name, column in result.values.items():
        assert back.values[name].dtype == column.dtype
        for a, b in zip(back.values[name], column, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(back.seconds, result.seconds)
    assert [file.name for file in tmp_path.iterdir()] == ["r.npz"]


def test_wrong_files_are_reported(tmp_path: Path) -> None:
    result = run(lambda p, c, s: 1, [0])
    with pytest.raises(ValueError, match=r"\.npz"):
        result.save(tmp_path / "r.nc")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="expected"):
        SweepResult.load(tmp_path / "other.npz")


def test_a_value_may_bear_the_name_of_a_column_of_the_sweep() -> None:
    data = run(lambda p, c, s: {"finished": 5, "error": 6}, [None, 1.5]).to_xarray()
    assert data["finished"].values.tolist() == [5, 5]
    assert data["finished_value"].values.tolist() == [True, True]
    assert data["point"].values.tolist() == [None, 1.5]


def test_provenance_names_versions_and_the_command() -> None:
    import sys

    import torch

    origin = run(lambda p, c, s: 1, [0], seed=9).provenance
    assert origin.torch == torch.__version__
    assert origin.seed == 9
    assert origin.dtype == "float32"
    assert len(origin.fingerprint) == len(origin.code) == len(origin.context) == 64
    assert sys.argv[0] in origin.command


def test_the_summary_counts_kinds_of_errors() -> None:
    def failing(point: int, context: None, seed: int) -> int:
        raise (KeyError("a") if point % 3 else ValueError("b\nsecond line"))

    text = run(failing, range(6)).summary()
    assert "0 of 6 points finished, 6 failed" in text
    assert "4 x KeyError: 'a'" in text
