"""Plots of surfaces: contours, heat maps, 3-D surfaces, lines; twins side by side on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

from ..arguments import checked
from ..imports import first_import
from ..landscape import Surface
from ..nouns import counted
from ._axes import metric_label
from ._fitting import letter_size
from ._frame import Frame, Look, PlotAxes, figure_title, given_axes, marker, new_axes, thin
from ._style import ink, is_scale, literal, shades

Kind = Literal["contour", "heat", "3d"]
_HATCHES = (("NaN", "////"), ("infinite", "xxxx"), ("not computed", "...."))
_MOST_LEVELS = 1000


@checked
def plot_surface_contours(
    surface: Surface,
    metric: str = "loss",
    ax: Axes | None = None,
    *,
    levels: int | Sequence[float] = 12,
    norm: Normalize | None = None,
    log: bool = False,
    path: np.ndarray | None = None,
    **look: Unpack[Look],
) -> Axes:
    """Contour lines with inline labels; cells without a finite value are hatched.

    Args:
        surface: over a plane; see :func:`resnet_paths.landscape.loss_surface`.
        metric: one of its metrics.
        ax: draw here, perhaps over another surface.
        levels: their number, or their values.
        norm: colour scale; by default, the range of the finite values.
        log: levels and colours on a logarithmic scale.
        path: (steps, 2) coordinates of a path to draw on top, such as a projected trajectory.
        **look: label, color, title and legend; see :class:`Look`. With a label or a color all lines have one color.
    """
    frame = Frame(ax, (6, 5), **look)
    values, norm = _prepared(surface, metric, norm, log)
    chosen = _levels(norm, levels) if isinstance(levels, int) else np.asarray(levels, dtype=float)
    if np.isfinite(values).any() and min(values.shape) > 1:
        finite = np.ma.masked_invalid(values)
        one: dict[str, Any] = (
            {"colors": [frame.color]} if frame.is_one_of_several and not is_scale(look.get("color")) else {}
        )
        scale: dict[str, Any] = one or {"cmap": shades(look.get("color")), "norm": norm}
        lines = frame.ax.contour(surface.x, surface.y, finite, levels=chosen, **scale)
        frame.ax.clabel(lines, fontsize="x-small", fmt=_short)
        if one:
            frame.ax.plot([], [], color=frame.color, label=frame.label())
    _hatch(frame, surface, values)
    return _dressed(frame, surface, metric, path)


@checked
def plot_surface_heat(
    surface: Surface,
    metric: str = "loss",
    ax: Axes | None = None,
    *,
    norm: Normalize | None = None,
    log: bool = False,
    path: np.ndarray | None = None,
    levels: int = 0,
    **look: Unpack[Look],
) -> Axes:
    """Each cell in its color, without interpolation; cells without a finite value are hatched.

    Args:
        surface: over a plane.
        metric: one of its metrics.
        ax: draw here.
        norm: colour scale; by default, the range of the finite values.
        log: colours on a logarithmic scale.
        path: as in :func:`plot_surface_contours`.
        levels: number of contour lines over the cells.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (6, 5), **look)
    values, norm = _prepared(surface, metric, norm, log)
    across, down = _edges(surface.x), _edges(_rows(surface))
    cells = frame.ax.pcolormesh(across, down, np.ma.masked_invalid(values), cmap=shades(look.get("color")), norm=norm)
    frame.bar(cells, _label(surface, metric))
    if levels:
        _contours(frame.ax, surface, values, norm, levels)
    _hatch(frame, surface, values)
    return _dressed(frame, surface, metric, path)


@checked
def plot_surface_3d(
    surface: Surface,
    metric: str = "loss",
    ax: Any = None,
    *,
    norm: Normalize | None = None,
    log: bool = False,
    **look: Unpack[Look],
) -> Axes:
    """The surface in three dimensions, with holes where values are not finite.

    Args:
        surface: over a plane.
        metric: one of its metrics.
        ax: draw here; its projection must be ``3d``.
        norm: scale of colours and height; by default, the range of the finite values.
        log: height and colours on a logarithmic scale.
        **look: label (of the height), color and title; see :class:`Look`.

    Raises:
        ValueError: two-dimensional axes.
    """
    if ax is not None and getattr(ax, "name", "") != "3d":
        raise ValueError(
            "expected axes with projection='3d', got two-dimensional ones; make them with add_subplot(projection='3d')"
        )
    frame = Frame(ax, (6, 5), **look, kind=_solid())
    values, norm = _prepared(surface, metric, norm, log)
    across, down = np.meshgrid(surface.x, _rows(surface))
    finite = np.where(np.isfinite(values), values, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        height = np.log10(finite) if log else finite
    colors = ScalarMappable(norm, shades(look.get("color"))).to_rgba(np.ma.masked_invalid(finite))
    solid: Any = frame.ax
    solid.plot_surface(across, down, height, facecolors=colors, rstride=1, cstride=1, shade=False, linewidth=0)
    low, high = _limits(norm, log)
    if low < high:
        solid.set_zlim(low, high)
    label = look.get("label") or _label(surface, metric)
    solid.set_zlabel(f"log10 of {label}" if log else label)
    solid.locator_params(nbins=5)
    side = min(frame.room.width, frame.room.height) + 4 * letter_size()
    solid.set_box_aspect(None, zoom=max(0.4, 1 - 7 * letter_size() / side))  # leaves room for the names of the axes
    return frame.done(_title(surface, metric), x=literal(surface.x_name), y=literal(str(surface.y_name)))


def _solid() -> Any:
    """The class of new axes in three dimensions."""
    with first_import("mpl_toolkits.mplot3d"):
        from mpl_toolkits.mplot3d import Axes3D

    return type("PlotAxes3D", (PlotAxes, Axes3D), {})


@checked
def plot_surface_line(surface: Surface, metric: str = "loss", ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """A metric along a line, with bars of 1.96 standard errors over examples, and gaps where it is not finite.

    Args:
        surface: over a line.
        metric: one of its metrics.
        ax: draw here, for instance over other lines.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: a surface over a plane, or a metric that it does not have.
    """
    if surface.y is not None:
        raise ValueError("expected a surface over a line, got one over a plane; use plot_surface_contours")
    if metric not in surface.values:
        raise ValueError(f"expected a metric among {sorted(surface.values)}, got {metric!r}")
    found = surface.values[metric]
    frame = Frame(ax, (6, 4), **look)
    values = np.where(np.isfinite(found), found, np.nan)
    half = 1.96 * surface.errors[metric]
    frame.ax.plot(surface.x, values, color=frame.color, marker=".", label=frame.label())
    frame.ax.fill_between(surface.x, values - half, values + half, color=frame.color, alpha=0.2, linewidth=0)
    return frame.done(_title(surface, metric), x=literal(surface.x_name), y=_label(surface, metric))


@checked
def plot_surface_twins(
    surfaces: Mapping[str, Surface],
    metric: str = "loss",
    ax: Sequence[Axes] | None = None,
    *,
    kind: Kind = "contour",
    log: bool = False,
    levels: int = 12,
    **look: Unpack[Look],
) -> list[Axes]:
    """Several surfaces side by side, with the same colours, levels and heights.

    Args:
        surfaces: by name, such as with and without skip connections.
        metric: a metric of all of them.
        ax: as many axes to draw on.
        kind: contour, heat or 3d.
        log: on a logarithmic scale.
        levels: number of contours.
        **look: label (of the colour bar), color, title (of the figure) and legend (the colour bar).

    Returns:
        The axes, one per surface, in one figure (``axes[0].figure``).

    Raises:
        ValueError: no surfaces, or an unknown kind.
    """
    if kind not in ("contour", "heat", "3d") or not surfaces:
        raise ValueError(f"expected surfaces and kind 'contour', 'heat' or '3d', got {len(surfaces)} and {kind!r}")
    norm = _norm(np.concatenate([_of(surface, metric).ravel() for surface in surfaces.values()]), log)
    size = (5.2 * len(surfaces), 4.6)
    if ax is None:
        ax = new_axes(size, 1, len(surfaces), _solid() if kind == "3d" else PlotAxes)
    row = given_axes(ax, len(surfaces), size)
    color = look.get("color")
    for panel, (name, surface) in zip(row, surfaces.items(), strict=True):
        each = Look(title=literal(name), legend=False, color=color)
        if kind == "contour":
            plot_surface_contours(surface, metric, panel, levels=levels, norm=norm, log=log, **each)
        elif kind == "heat":
            plot_surface_heat(surface, metric, panel, norm=norm, log=log, **each)
        else:
            plot_surface_3d(surface, metric, panel, norm=norm, log=log, **each).set_zlabel("log10" if log else "")  # type: ignore
    figure = row[0].figure
    if look.get("title"):
        figure_title(row[0], str(look["title"]))
    if look.get("legend") is not False:
        text = look.get("label") or _label(surface, metric)
        figure.colorbar(ScalarMappable(norm, shades(color)), ax=row, label=text, shrink=0.8)
    return row


@checked
def interactive_surface(surfaces: Surface | Mapping[str, Surface], metric: str = "loss", *, log: bool = False) -> Any:
    """Interactive 3-D surfaces: a plotly figure with one scene per surface, on one scale.

    ``figure.write_html("surface.html")`` writes a self-contained page. Non-finite values are holes.

    Args:
        surfaces: one, or several by name.
        metric: a metric of all of them.
        log: heights on a logarithmic scale.

    Raises:
        ImportError: plotly is not installed.
        ValueError: no surfaces.
    """
    try:
        with first_import("plotly.graph_objects"):
            import plotly.graph_objects as go
            from plotly.subplots import make_subplots
    except ImportError as error:
        raise ImportError("expected plotly to be installed; run: pip install 'resnet-paths[plotly]'") from error
    named = {"": surfaces} if isinstance(surfaces, Surface) else dict(surfaces)
    if not named:
        raise ValueError("expected at least one surface, got none")
    norm = _norm(np.concatenate([_of(surface, metric).ravel() for surface in named.values()]), log)
    figure = make_subplots(
        1,
        len(named),
        specs=[[{"type": "surface"}] * len(named)],
        subplot_titles=list(named) if len(named) > 1 else None,
    )
    limits = _limits(norm, log)
    label = _label(next(iter(named.values())), metric)
    for column, surface in enumerate(named.values()):
        values = np.where(np.isfinite(_of(surface, metric)), _of(surface, metric), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            height = np.log10(values) if log else values
        figure.add_trace(
            go.Surface(
                x=surface.x, y=_rows(surface), z=height, cmin=limits[0], cmax=limits[1], colorscale="Viridis",
                showscale=column == len(named) - 1,
            ),
            1, column + 1,
        )  # fmt: skip
        scene = {
            "xaxis": {"title": {"text": surface.x_name}},
            "yaxis": {"title": {"text": str(surface.y_name)}},
            "zaxis": {"title": {"text": f"log10 of {label}" if log else label}, "range": limits},
        }
        figure.update_layout({"scene" if column == 0 else f"scene{column + 1}": scene})
    return figure


def _rows(surface: Surface) -> np.ndarray:
    if surface.y is None:
        raise ValueError("expected a surface over a plane, got one over a line; use plot_surface_line")
    return surface.y


def _of(surface: Surface, metric: str) -> np.ndarray:
    if metric not in surface.values:
        raise ValueError(f"expected a metric among {sorted(surface.values)}, got {metric!r}")
    _rows(surface)
    return surface.values[metric]


def _prepared(surface: Surface, metric: str, norm: Normalize | None, log: bool) -> tuple[np.ndarray, Normalize]:
    values = _of(surface, metric)
    return values, norm if norm is not None else _norm(values, log)


def _norm(values: np.ndarray, log: bool) -> Normalize:
    finite = values[np.isfinite(values)]
    if not log:
        return Normalize(*(finite.min(), finite.max())) if len(finite) else Normalize(0, 1)
    positive = finite[finite > 0]
    return LogNorm(positive.min(), positive.max()) if len(positive) else LogNorm(0.1, 1)


def _limits(norm: Normalize, log: bool) -> tuple[float, float]:
    """The limits of the height axis."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    return (float(np.log10(low)), float(np.log10(high))) if log else (low, high)


def _levels(norm: Normalize, count: int) -> np.ndarray:
    if not 1 <= count <= _MOST_LEVELS:
        raise ValueError(f"expected levels as a number from 1 to {_MOST_LEVELS:,}, or a list of them, got {count}")
    low, high = float(norm.vmin), float(norm.vmax)  # type: ignore[arg-type]
    if low == high:
        return np.array([low])
    spaced = np.geomspace(low, high, count + 2) if isinstance(norm, LogNorm) else np.linspace(low, high, count + 2)
    return spaced[1:-1]


def _contours(ax: Axes, surface: Surface, values: np.ndarray, norm: Normalize, count: int) -> None:
    """Lines over coloured cells: white on the dark half of the colours, black on the bright one."""
    if not np.isfinite(values).any() or min(values.shape) < 2 or norm.vmin == norm.vmax:
        return
    levels = _levels(norm, count)
    colors = ["white" if norm(level) < 0.55 else "#111111" for level in levels]
    finite = np.ma.masked_invalid(values)
    lines = ax.contour(surface.x, surface.y, finite, levels=levels, colors=colors, linewidths=thin(0.5))
    ax.clabel(lines, fontsize="x-small", fmt=_short)


def _short(level: float) -> str:
    return f"{level:.3g}"


def _edges(centres: np.ndarray) -> np.ndarray:
    """The edges between cells: half way between their coordinates."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _hatch(frame: Frame, surface: Surface, values: np.ndarray) -> None:
    """Hatch NaN, infinite and missing cells, each kind differently, with an entry in the legend."""
    across, down = _edges(surface.x), _edges(_rows(surface))
    kinds = (
        np.isnan(values) & surface.finished,
        np.isinf(values),
        ~surface.finished,
    )
    style: Any = {"facecolor": "none", "edgecolor": ink(0.7), "linewidth": 0.0}
    for (name, hatch), where in zip(_HATCHES, kinds, strict=True):
        cells = [
            Rectangle((across[c], down[r]), across[c + 1] - across[c], down[r + 1] - down[r])
            for r, c in zip(*np.nonzero(where), strict=True)
        ]
        if cells:
            frame.ax.add_collection(PatchCollection(cells, label=name, hatch=hatch, **style))
    frame.ax.set_xlim(across[0], across[-1])
    frame.ax.set_ylim(down[0], down[-1])


def _dressed(frame: Frame, surface: Surface, metric: str, path: np.ndarray | None) -> Axes:
    """The axes with the trained weights marked, a path if there is one, and all texts."""
    if surface.norms and surface.x[0] <= 0 <= surface.x[-1] and _rows(surface)[0] <= 0 <= _rows(surface)[-1]:
        frame.ax.plot(0, 0, marker="+", color=ink(), markersize=marker(1.5))
    if path is not None:
        frame.ax.plot(path[:, 0], path[:, 1], color=ink(), marker=".", linewidth=thin())
    return frame.done(_title(surface, metric), x=literal(surface.x_name), y=literal(str(surface.y_name)))


def _label(surface: Surface, metric: str) -> str:
    if metric == "error":
        return f"error (share of {surface.source.nouns})"
    return metric_label(surface.loss if metric == "loss" else metric)


def _title(surface: Surface, metric: str) -> str:
    parts = [
        _label(surface, metric),
        f"{literal(surface.source.name)}, {counted(surface.images, surface.source.noun)}",
        f"{surface.batchnorm} statistics",
    ]
    if surface.cosine is not None:
        parts.append(f"cosine of the axes {surface.cosine:.2g}")
    return "; ".join(parts)
