import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PatchCollection

from resnet_paths.landscape import Surface
from resnet_paths.plot import (
    interactive_surface,
    plot_surface_3d,
    plot_surface_contours,
    plot_surface_heat,
    plot_surface_line,
    plot_surface_twins,
    save,
)


def surface(scale: float = 1.0, holes: bool = False) -> Surface:
    x, y = np.array([-1.0, 0.0, 0.5, 2.0]), np.array([0.0, 1.0, 3.0])
    values = scale * (1 + x**2 + y[:, None])
    if holes:
        values[1, 2], values[2, 0] = np.nan, np.inf
    found = Surface.of(x, y, loss=values, error=values / 100)
    if holes:
        found.finished[0, 3] = False
        found.values["loss"][0, 3] = np.nan
    return found


def hatched(ax) -> dict[str, list[tuple[float, float, float, float]]]:
    found = {}
    for collection in ax.collections:
        if isinstance(collection, PatchCollection) and collection.get_hatch():
            boxes = [path.get_extents() for path in collection.get_paths()]
            found[collection.get_label()] = [(box.x0, box.y0, box.x1, box.y1) for box in boxes]
    return found


@pytest.mark.parametrize("plot", [plot_surface_contours, plot_surface_heat])
def test_cells_without_a_value_are_hatched_where_they_are(plot, tmp_path) -> None:
    ax = plot(surface(holes=True))
    assert hatched(ax) == {
        "NaN": [(0.25, 0.5, 1.25, 2.0)],
        "infinite": [(-1.5, 2.0, -0.5, 4.0)],
        "not computed": [(1.25, -0.5, 2.75, 0.5)],
    }
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"NaN", "infinite", "not computed"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    assert "cross-entropy" in ax.get_title()
    assert save(ax, tmp_path / "a.png").stat().st_size > 5000
    assert not hatched(plot(surface()))


def test_contours_are_labelled_with_their_levels() -> None:
    ax = plot_surface_contours(surface(), levels=[2.0, 3.5])
    assert {text.get_text() for text in ax.texts} == {"2", "3.5"}
    logarithmic = plot_surface_contours(surface(), log=True, levels=4)
    assert len({text.get_text() for text in logarithmic.texts}) >= 3
    path = np.array([[0.0, 1.0], [0.5, 2.0]])
    drawn = plot_surface_contours(surface(), path=path).lines[-1]
    np.testing.assert_array_equal(drawn.get_xydata(), path)


def test_a_heat_map_has_each_value_at_its_cell() -> None:
    given = surface()
    figure = matplotlib.figure.Figure()
    ax = figure.subplots()
    assert plot_surface_heat(given, ax=ax) is ax
    mesh = ax.collections[0]
    np.testing.assert_array_equal(np.asarray(mesh.get_array()), given.values["loss"])
    corners = mesh.get_coordinates()
    assert corners[0, 0].tolist() == [-1.5, -0.5]
    assert corners[-1, -1].tolist() == [2.75, 4.0]


def test_in_three_dimensions(tmp_path) -> None:
    ax = plot_surface_3d(surface(holes=True), log=True)
    assert ax.get_zlabel().startswith("log10")
    assert save(ax, tmp_path / "a.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="projection='3d'"):
        plot_surface_3d(surface(), ax=matplotlib.figure.Figure().subplots())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["contour", "heat", "3d"])
def test_twins_are_on_one_scale(kind: str, tmp_path) -> None:
    both = plot_surface_twins({"skip": surface(), "plain": surface(10, holes=True)}, kind=kind)
    assert [ax.get_title() for ax in both] == ["skip", "plain"]
    assert both[0].get_xlim() == both[1].get_xlim()
    if kind == "3d":
        assert both[0].get_zlim() == both[1].get_zlim()
    else:
        limits = [collection.norm for ax in both for collection in ax.collections if collection.get_array() is not None]
        assert {(norm.vmin, norm.vmax) for norm in limits} == {(1.0, 80.0)}
    assert save(both[0], tmp_path / "a.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="expected surfaces and kind"):
        plot_surface_twins({}, kind=kind)


def test_a_line_with_its_interval_and_gaps() -> None:
    values = np.array([1.0, np.nan, 3.0])
    line = Surface.of(np.arange(3.0), None, loss=values)
    line.errors["loss"] = np.array([0.1, np.nan, 0.5])
    ax = plot_surface_line(line, label="skip")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), values)
    assert ax.collections[0].get_datalim(ax.transData).y1 == pytest.approx(3 + 1.96 * 0.5)
    with pytest.raises(ValueError, match="plot_surface_contours"):
        plot_surface_line(surface())
    with pytest.raises(ValueError, match="plot_surface_line"):
        plot_surface_contours(line)


@pytest.mark.slow
def test_interactive(tmp_path) -> None:
    pytest.importorskip("plotly")
    given = {"skip": surface(), "plain": surface(10, holes=True)}
    figure = interactive_surface(given)
    assert len(figure.data) == 2
    np.testing.assert_array_equal(figure.data[0].z, given["skip"].values["loss"])
    assert np.isnan(figure.data[1].z[2, 0])
    assert figure.data[0].cmax == figure.data[1].cmax == 80
    assert figure.layout.scene.zaxis.range == figure.layout.scene2.zaxis.range == (1.0, 80.0)
    figure.write_html(tmp_path / "a.html", include_plotlyjs=False)
    assert "surface" in (tmp_path / "a.html").read_text()
    assert len(interactive_surface(surface(), log=True).data) == 1


def test_an_unknown_metric() -> None:
    with pytest.raises(ValueError, match=r"among \['error', 'loss'\]"):
        plot_surface_heat(surface(), "speed")
