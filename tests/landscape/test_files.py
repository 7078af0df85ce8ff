import numpy as np
import pytest
import torch

from damage import tiny
from resnet_paths.data import digits
from resnet_paths.landscape import Surface, loss_surface, random_direction, save_vtk


def example() -> Surface:
    x, y = np.array([0.0, 0.5, 2.0]), np.array([-1.0, 1.0])
    values = np.array([[1.0, np.nan, np.inf], [4.0, 5.0, -0.0]])
    return Surface.of(x, y, loss=values, **{"my metric": 2 * values})


def test_npz_keeps_every_bit(tmp_path) -> None:
    model = tiny(in_channels=1)
    data = digits("test").subset(slice(0, 5)).to(dtype=torch.float64)
    plane = [random_direction(model, seed=seed) for seed in (1, 2)]
    surface = loss_surface(model, data, directions=plane, x=[0.0, 0.5, 1.0], y=[0.0, 1.0], progress=False)
    for one in (surface, example(), Surface.of(np.arange(3.0), None, loss=np.arange(3.0))):
        loaded = Surface.load(one.save(tmp_path / "deep" / "surface.npz"))
        for name in vars(one):
            first, second = getattr(one, name), getattr(loaded, name)
            if isinstance(first, dict):
                assert first.keys() == second.keys()
                for key, value in first.items():
                    np.testing.assert_array_equal(value, second[key])
            elif isinstance(first, np.ndarray):
                np.testing.assert_array_equal(first, second)
            else:
                assert first == second
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match="expected a record"):
        Surface.load(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        surface.save(tmp_path / "surface.csv")


def read_vtk(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[int]]:
    """A literal reader of the legacy format."""
    position = 0

    def line() -> str:
        nonlocal position
        end = content.index(b"\n", position)
        text = content[position:end].decode()
        position = end + 1
        return text

    def doubles(count: int) -> np.ndarray:
        nonlocal position
        values = np.frombuffer(content, ">f8", count, position).astype(float)
        position += 8 * count
        assert content[position : position + 1] == b"\n"
        position += 1
        return values

    assert line() == "# vtk DataFile Version 3.0"
    line()
    assert [line(), line()] == ["BINARY", "DATASET RECTILINEAR_GRID"]
    shape = [int(size) for size in line().split()[1:]]
    coordinates = {}
    for _ in range(3):
        name, count, kind = line().split()
        assert kind == "double"
        coordinates[name[0]] = doubles(int(count))
    points = int(line().split()[1])
    arrays = {}
    while position < len(content):
        name = line().split()[1]
        assert line() == "LOOKUP_TABLE default"
        arrays[name] = doubles(points)
    return coordinates, arrays, shape


def test_vtk_has_the_numbers_at_their_coordinates(tmp_path) -> None:
    surface = example()
    coordinates, arrays, shape = read_vtk(save_vtk(surface, tmp_path / "surface.vtk").read_bytes())
    assert shape == [3, 2, 1]
    np.testing.assert_array_equal(coordinates["X"], surface.x)
    np.testing.assert_array_equal(coordinates["Y"], surface.y)
    assert set(arrays) == {"loss", "my_metric", "loss_se", "my_metric_se"}
    np.testing.assert_array_equal(arrays["loss"].reshape(2, 3), surface.values["loss"])  # x runs fastest
    line = Surface.of(np.arange(4.0), None, loss=np.arange(4.0))
    _, arrays, shape = read_vtk(save_vtk(line, tmp_path / "line.vtk").read_bytes())
    assert shape == [4, 1, 1]
    np.testing.assert_array_equal(arrays["loss"], np.arange(4.0))
    with pytest.raises(ValueError, match=r"ends in \.vtk"):
        save_vtk(surface, tmp_path / "surface.vtp")
