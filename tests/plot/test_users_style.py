"""Plots obey the user: their style, their axes, labels, colours and titles, and the options of their files."""

import re
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from cycler import cycler
from matplotlib.colors import same_color, to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from plot_checks import COLUMN, check_readable
from resnet_paths import cifar_resnet, path_lengths, plot, single_deletions, unroll
from resnet_paths.data import digits
from resnet_paths.landscape import Surface
from resnet_paths.plot import (
    plot_path_lengths,
    plot_single_deletions,
    plot_surface_contours,
    plot_surface_heat,
    plot_surface_line,
    plot_training,
    save,
)

ROWS = [{"epoch": epoch, "loss": 2.0 / (epoch + 1), "train_error": 0.5, "test_error": 0.6} for epoch in range(3)]


@pytest.fixture(scope="module")
def record():
    net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval())
    return single_deletions(net, digits().subset(slice(0, 6)), progress=False)


def column(rows: int = 1, columns: int = 1):
    return Figure(layout="constrained").subplots(rows, columns)


def names(ax) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


@pytest.mark.parametrize("size", [6.0, 14.0])
def test_every_text_scales_with_the_users_font_size(size: float, record) -> None:
    with matplotlib.rc_context({"font.size": size}):
        for draw in (lambda ax: plot_path_lengths(path_lengths(9), ax), lambda ax: plot_single_deletions(record, ax)):
            ax = Figure(figsize=(3.25, 2.5), layout="constrained").subplots()
            assert draw(ax) is ax
            sizes = {text.get_fontsize() for text in ax.get_figure().findobj(Text) if text.get_text()}
            assert sizes
            assert all(0.6 * size < own <= 1.2 * size for own in sizes), sizes


def test_sizes_and_figure_are_those_of_the_style(record) -> None:
    own = {"axes.titlesize": 5, "legend.fontsize": 4, "figure.figsize": (3.25, 2.2), "lines.markersize": 10}
    with matplotlib.rc_context(own):
        ax = plot_single_deletions(record, chance=0.9)
    assert ax.figure.get_size_inches().tolist() == [3.25, 2.2]
    assert ax.title.get_fontsize() == 5
    assert {text.get_fontsize() for text in ax.get_legend().get_texts()} == {4}
    assert ax.containers[0].lines[0].get_markersize() == pytest.approx(7)


def test_no_plot_hard_codes_a_size_or_a_colour() -> None:
    folder = Path(plot.__file__).parent
    sized = r"(fontsize|labelsize|markersize|linewidth|capsize)=\d*\.?\d*[1-9]|\bcolor=\"(?!white|#111111)"
    assert [path.name for path in folder.glob("*.py") if re.search(sized, path.read_text())] == []


def test_several_records_have_a_colour_each_and_one_legend(record) -> None:
    with matplotlib.rc_context({**COLUMN, "axes.prop_cycle": cycler(color=["#aa0000", "#00aa00", "#0000aa"])}):
        ax = column()
        for label in ("before", "after"):
            plot_single_deletions(record, ax, chance=0.9, label=label)
        assert names(ax) == ["before", "chance (90 %)", "after"]
        colors = [to_hex(container.lines[0].get_color()) for container in ax.containers]
        assert list(dict.fromkeys(colors)) == ["#aa0000", "#00aa00"]
        check_readable(ax.figure)


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda ax, **look: plot_path_lengths(path_lengths(len(look["label"])), ax, **look), ["one", "three"]),
        (lambda ax, **look: plot_training(ROWS, ax, **look), None),
        (lambda ax, **look: plot_surface_contours(plane(), ax=ax, **look), ["one", "three"]),
        (lambda ax, **look: plot_surface_line(line(), ax=ax, **look), ["one", "three"]),
    ],
    ids=["bars", "two axes", "contours", "lines"],
)
def test_a_second_record_joins_the_first(draw, expected) -> None:
    ax = column()
    assert draw(ax, label="one") is ax
    title = ax.get_title()
    draw(ax, label="three")
    assert ax.get_title() == title
    series = [f"{record}: {series}" for record in ("one", "three") for series in
              ("training error", "test error", "training loss")]  # fmt: skip
    assert names(ax) == (expected or series)
    assert len(ax.figure.axes) == (1 if expected else 2)


def plane() -> Surface:
    x, y = np.array([-1.0, 0.0, 0.5, 2.0]), np.array([0.0, 1.0, 3.0])
    return Surface.of(x, y, loss=1 + x**2 + y[:, None])


def line() -> Surface:
    surface = Surface.of(np.arange(3.0), None, loss=np.arange(3.0))
    surface.errors["loss"] = np.ones(3)
    return surface


def test_blocks_of_another_network_have_places_of_their_own(record) -> None:
    other = single_deletions(
        unroll(cifar_resnet(14, in_channels=1, widths=(2, 2, 2), seed=0).eval()),
        digits().subset(slice(0, 6)),
        progress=False,
    )
    ax = Figure(figsize=(8, 4), layout="constrained").subplots()
    plot_single_deletions(record, ax, label="3 blocks")
    plot_single_deletions(other, ax, label="6 blocks")
    drawn = {}
    for container in ax.containers[-2:]:
        drawn |= dict(
            zip(np.floor(container.lines[0].get_xdata()).tolist(), container.lines[0].get_ydata(), strict=True)
        )
    places = {name: place for place, name in enumerate(dict.fromkeys([*record.names, *other.names]))}
    assert drawn == {places[name]: value for name, value in zip(other.names, other.values, strict=True)}


def test_titles_and_legends_on_request(record) -> None:
    ax = plot_single_deletions(record, title=None, legend=False)
    assert (ax.get_title(), ax.get_legend()) == ("", None)
    assert plot_single_deletions(record, title="mine").get_title() == "mine"
    given = column()
    given.set_title("there already")
    assert plot_single_deletions(record, given).get_title() == "there already"
    assert names(plot_surface_line(line(), label="one")) == []
    assert names(plot_surface_line(line(), label="one", legend=True)) == ["one"]
    assert len(plot_surface_heat(plane()).figure.axes) == 2
    assert len(plot_surface_heat(plane(), legend=False).figure.axes) == 1


def test_a_color_is_that_of_the_record(record) -> None:
    ax = plot_single_deletions(record, color="crimson")
    assert all(same_color(container.lines[0].get_color(), "crimson") for container in ax.containers)
    shaded = plot_surface_heat(plane(), color="magma").collections[0]
    assert shaded.get_cmap().name == "magma"
    assert same_color(plot_surface_heat(plane(), color="crimson").collections[0].get_cmap()(1.0), "crimson")
    with pytest.raises(ValueError, match="expected a color as matplotlib names one"):
        plot_single_deletions(record, color="no such colour")
    with pytest.raises(TypeError, match=r"expected options among color, label, legend, title, got colour="):
        plot_single_deletions(record, colour="red")


def test_matplotlibs_own_cycle_gives_colours_that_colour_blind_readers_tell_apart() -> None:
    ax = column()
    ax.plot([0, 1], [0, 1])  # the user's own line: the cycle continues from there
    plot_surface_line(line(), ax=ax)
    assert to_hex(ax.lines[-1].get_color()) == "#e69f00"


@pytest.mark.parametrize("style", ["dark_background", "ggplot"])
def test_lines_of_no_record_are_seen_on_every_background(style: str, record) -> None:
    with matplotlib.style.context(style):
        ax = plot_single_deletions(record, chance=0.9)
        paper = np.array(matplotlib.colors.to_rgb(ax.get_facecolor()))
        for drawn in ax.lines:
            assert np.abs(np.array(matplotlib.colors.to_rgb(drawn.get_color())) - paper).max() > 0.3


def test_the_users_place_of_the_legend_is_kept(record) -> None:
    with matplotlib.rc_context({"legend.loc": "lower right"}):
        ax = plot_single_deletions(record)
    assert ax.get_legend()._loc == matplotlib.legend.Legend.codes["lower right"]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_files_have_the_options_of_savefig_and_are_whole(ending: str, tmp_path: Path, monkeypatch) -> None:
    ax = plot_path_lengths(path_lengths(5))
    path = save(ax, tmp_path / f"a.{ending}", dpi=50, transparent=True, bbox_inches="tight", pad_inches=0.3)
    whole = path.read_bytes()
    if ending == "png":
        picture = Image.open(path)
        assert picture.getpixel((0, 0))[3] == 0
        assert picture.size[0] < 50 * 6
    assert save(ax, tmp_path / "again", format=ending).stat().st_size > 1000

    def fails(figure, partial, **options) -> None:
        Path(partial).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        save(ax, path)
    assert path.read_bytes() == whole
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([path.name, "again"])


def test_several_figures_are_the_pages_of_a_pdf(tmp_path: Path) -> None:
    pages = [plot_path_lengths(path_lengths(n)) for n in (2, 3)]
    content = save([*pages, pages[0]], tmp_path / "a.pdf").read_bytes()
    assert content.count(b"/Type /Page ") == 2
    with pytest.raises(ValueError, match=r"ends in .pdf for 2 pages"):
        save(pages, tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected axes or figures to write, got none"):
        save([], tmp_path / "a.pdf")


def test_a_notebook_shows_what_a_plot_returns() -> None:
    ax = plot_path_lengths(path_lengths(3))
    assert ax._repr_png_().startswith(b"\x89PNG")
