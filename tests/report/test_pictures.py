"""Pictures of the page: no text overlaps the drawing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resnet_paths.report import Table
from resnet_paths.report.pictures import distinct, legend_above, marks, picture
from resnet_paths.report.relief import relief_data


@pytest.mark.parametrize("size", [(8.0, 3.8), (4.4, 3.1)])
@pytest.mark.parametrize("labels", [("a",), ("one", "another, of many more words than the first", "three")])
def test_the_legend_lies_above_the_axes_and_within_the_picture(size, labels) -> None:
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    for label in labels:
        ax.plot(np.arange(5), label=label)
    ax.legend()
    legend_above(ax, size)
    FigureCanvasAgg(figure).draw()
    legend, drawn, whole = ax.get_legend().get_window_extent(), ax.get_window_extent(), figure.bbox
    assert legend.y0 >= drawn.y1
    assert legend.x1 <= whole.x1 + 1
    assert legend.y1 <= whole.y1 + 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(labels)


def test_axes_without_a_legend_get_none() -> None:
    ax = Figure().subplots()
    ax.plot([0, 1], label="not asked for")
    legend_above(ax, (4.0, 3.0))
    assert ax.get_legend() is None


POINTS = pd.DataFrame(
    {"name": ["a", "b", "c", "d"], "x": [1.0, 10.0, 100.0, 10.0], "share": [0.125, 0.5, 0.25, np.nan]}
)


def points(ax: Axes) -> None:
    ax.plot(POINTS["x"], POINTS["share"], "o", label="points & <more>")
    ax.set_xscale("log")
    ax.legend()


def shown(svg: str) -> list[dict[str, str]]:
    root = ElementTree.fromstring(svg)
    return [dict(e.attrib) for e in root.iter() if e.get("class") == "mark"]


def tip(row: Mapping[str, Any]) -> str:
    return f'{row["name"]} "is" <{row["share"]}>'


def test_the_marks_lie_on_what_is_drawn_and_hold_the_numbers_of_the_table() -> None:
    table = Table.of("points", "Points", POINTS)
    drawn = picture(points, "three points", marks(table, tip, y="share", x="x"))
    found = shown(drawn.svg)
    assert [mark["data-tip"] for mark in found] == ['a "is" <0.125>', 'b "is" <0.5>', 'c "is" <0.25>']
    assert [mark["data-cell"] for mark in found] == [f"points {row} share" for row in range(3)]  # none without a value
    assert [float(mark["data-value"]) for mark in found] == [0.125, 0.5, 0.25]
    used = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: var\(--blue\)', drawn.svg)
    places = [(float(x), float(y)) for x, y in used][:3]  # before the one of the legend
    assert [(float(m["cx"]), float(m["cy"])) for m in found] == [pytest.approx(place, abs=0.06) for place in places]


def test_a_value_beyond_the_axes_has_no_mark() -> None:
    def cut(ax: Axes) -> None:
        points(ax)
        ax.set_ylim(0.2, 1)

    table = Table.of("points", "Points", POINTS)
    assert len(shown(picture(cut, "two points", marks(table, tip, y="share", x="x")).svg)) == 2


def test_figures_of_one_page_share_no_identifier() -> None:
    svg = picture(points, "three points").svg
    one, other = (set(re.findall(r' id="([^"]+)"', distinct(svg, name))) for name in ("one", "other"))
    assert one
    assert not one & other
    whole = distinct(svg, "one")
    assert set(re.findall(r'href="#([^"]+)"', whole)) | set(re.findall(r"url\(#([^)]+)\)", whole)) == one


def test_no_colour_of_the_two_themes_is_left_in_a_figure() -> None:
    def matrix(ax: Axes) -> None:
        ax.pcolormesh([0, 1], [0, 1], [[-1.0, 0.0], [0.5, 1.0]], cmap="PuOr_r", vmin=-1, vmax=1)
        ax.axhline(0.5, color="black")

    svg = picture(matrix, "a matrix").svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff"}
    sides = re.findall(r"color-mix\(in srgb, var\(--(\w+)\) (\d+)%, var\(--zero\)\)", svg)
    assert {("below", "100"), ("above", "100")} <= set(sides)
    assert any(int(percent) <= 1 for _, percent in sides)


def test_a_surface_with_a_hole() -> None:
    frame = pd.DataFrame({"x": [1, 0, 1, 0], "y": [0, 0, 1, 1], "loss": [10.0, 1.0, np.inf, 100.0]})
    data = json.loads(relief_data(Table.of("t", "T", frame), tip_of_cell, "x", "y", "loss"))
    assert data["z"] == [0, 1, 2, None]
    assert data["exact"] == [1, 10, 100, None]
    assert [frame["loss"][row] for row in data["rows"]] == [1, 10, 100, np.inf]
    assert data["texts"][:3] == ["1.0", "10.0", "100.0"]


def tip_of_cell(row: Mapping[str, Any]) -> str:
    return str(row["loss"])


def test_a_label_that_is_longer_than_the_picture_takes_lines() -> None:
    """A path of a file, of which two collapsed the axes, with a warning, which fails a test."""
    label = f"/home/me/{'experiment-' * 12}/model.safetensors"

    def draw(ax: Axes) -> None:
        for number in range(2):
            ax.plot([0, 1], [number, 1], label=f"{label} {number}")
        ax.legend()

    shown = picture(draw, "two lines").svg
    assert shown.count("experiment-") >= 1
    assert "safetensors" in shown
