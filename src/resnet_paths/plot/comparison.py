"""Plots of models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from ..arguments import checked
from ..comparison import Comparison
from ..data.metrics import is_share
from ._axes import metric_label
from ._frame import Frame, Look, figure_title, given_axes, marker
from ._style import bars, cycle, literal, shades

Quantity = Literal[
    "damage",
    "contribution",
    "shapley",
    "deletion",
    "frontier",
    "recommended",
    "gradient_share",
    "effective_share",
    "path_share",
]
"""What a comparison can draw of all models on one axis."""

_BY_BLOCK = ("damage", "contribution", "shapley")
_FEW = 6  # the most models that colours can distinguish
_X_LABELS = {
    "damage": "deleted block",
    "deletion": "number of random blocks deleted",
    "frontier": "number of least damaging blocks deleted",
    "recommended": "number of blocks dropped in the recommended order",
}
_Y_LABELS = {
    "contribution": "contribution to the true logit",
    "gradient_share": "share of the gradient",
    "effective_share": "share of the effective paths",
    "path_share": "share of all paths",
}
_OF_METRIC = {"damage": "rise of {}", "shapley": "fall of {} (Shapley value)"}


@dataclass(frozen=True)
class _Colors:
    """A colour for each model; those of a series come from a scale, which `bar` explains."""

    of_models: tuple[ColorType, ...]
    bar: ScalarMappable | None = None
    bar_label: str = ""

    @classmethod
    def of(cls, record: Comparison, film: bool, color: ColorType | None) -> _Colors:
        """Up to six models have a colour each, unless they are a film; more take those of a scale in their order."""
        if not film and color is None and len(record.models) <= _FEW:
            return cls(tuple(cycle(len(record.models))))
        positions = record.positions
        dark = ListedColormap(shades(color)(np.linspace(0, 0.9, 256)))  # the end is too light for lines on white
        scale = ScalarMappable(Normalize(positions.min(), positions.max()), dark)
        return cls(tuple(map(tuple, scale.to_rgba(positions).tolist())), scale, record.series)

    def explain(self, axes: Sequence[Axes], look: Look) -> None:
        """Draw the scale beside the axes, if there is one and it is wanted."""
        if self.bar is not None and look.get("legend") is not False:
            axes[0].figure.colorbar(self.bar, ax=list(axes), label=literal(self.bar_label))


@checked
def plot_side_by_side(
    record: Comparison,
    quantity: Quantity = "damage",
    ax: Axes | None = None,
    *,
    film: bool = False,
    **look: Unpack[Look],
) -> Axes:
    """One quantity of all models on one axis, with intervals where there are at most six models.

    Args:
        record: see :func:`resnet_paths.comparison.compare`.
        quantity: damage, contribution or shapley, by block; deletion, frontier or recommended, by the number of deleted
            blocks; gradient_share, effective_share or path_share, by path length.
        ax: draw here.
        film: colour the models on a scale in their order, whatever their number: the checkpoints of a run.
        **look: label (before the names of the models), color (or the name of a scale), title and legend; see
            :class:`Look`.

    Raises:
        ValueError: the record does not contain the quantity, because it was not among the parts of the comparison.
    """
    return _panels(record, (quantity,), None if ax is None else [ax], (6.5, 4), film, look)[0]


@checked
def plot_comparison(record: Comparison, ax: Sequence[Axes] | None = None, **look: Unpack[Look]) -> list[Axes]:
    """Models side by side: damage by block, random deletions, the least damaging blocks deleted, and the gradient.

    Up to six models have a colour each; more, such as the checkpoints of a run, take those of a scale in their order.

    Args:
        record: see :func:`resnet_paths.comparison.compare`.
        ax: four axes to draw on.
        **look: label (before the names of the models), color (or the name of a scale), title (of the figure) and
            legend; see :class:`Look`.

    Returns:
        The four axes.

    Raises:
        ValueError: not four axes.
    """
    quantities: tuple[Quantity, ...] = ("damage", "deletion", "frontier", "gradient_share")
    return _panels(record, quantities, ax, (11, 7.5), False, look, rows=2)


@checked
def plot_checkpoints(
    record: Comparison,
    ax: Sequence[Axes] | None = None,
    *,
    quantities: Sequence[Quantity] = ("deletion", "gradient_share"),
    **look: Unpack[Look],
) -> list[Axes]:
    """The checkpoints of a run as a series of curves, coloured by their position in the run.

    The position is the last number in a checkpoint's name (epoch-0010: 10); the colours are those of matplotlib's
    ``image.cmap``, so your style decides them.

    Args:
        record: a comparison of a run's checkpoints, ``compare("runs/mine", images)``.
        ax: as many axes as quantities.
        quantities: what to draw; see :func:`plot_side_by_side`.
        **look: color (or the name of a scale), title (of the figure) and legend (the scale); see :class:`Look`.

    Returns:
        The axes.

    Raises:
        ValueError: another number of axes than of quantities, or none.
    """
    if not quantities or (ax is not None and len(ax) != len(quantities)):
        got = len(quantities) if ax is None else len(ax)
        raise ValueError(f"expected as many axes as quantities, at least one, got {got} and {len(quantities)}")
    return _panels(record, quantities, ax, (5.5 * len(quantities), 4), True, look)


def _panels(
    record: Comparison,
    quantities: Sequence[Quantity],
    ax: Sequence[Axes] | None,
    size: tuple[float, float],
    film: bool,
    look: Look,
    rows: int = 1,
) -> list[Axes]:
    """A panel for each quantity, with one legend or colour bar and one title for all."""
    for quantity in quantities:
        if getattr(record, quantity) is None:
            raise ValueError(
                f"expected a comparison with {quantity}, got one without it; see the argument parts of compare"
            )
    axes, colors = given_axes(ax, len(quantities), size, rows), _Colors.of(record, film, look.get("color"))
    images = f"{record.images} {record.source.nouns} ({literal(record.source.name)})"
    title = f"{len(record.models)} models, {images}, {100 * record.confidence:g} % intervals"
    for panel, (place, quantity) in enumerate(zip(axes, quantities, strict=True)):
        own = Look(label=look.get("label"), legend=look.get("legend") if panel == 0 and colors.bar is None else False)
        if len(axes) > 1:
            own["title"] = None
        elif "title" in look:
            own["title"] = look["title"]
        _draw(Frame(place, **own), record, quantity, colors, title)
    colors.explain(axes, look)
    if len(axes) > 1 and look.get("title", title):
        figure_title(axes[0], look.get("title") or title)
    return axes


def _draw(frame: Frame, record: Comparison, quantity: Quantity, colors: _Colors, title: str) -> None:
    if quantity in _BY_BLOCK:
        _by_block(frame, record, quantity, colors)
    else:
        _curves(frame, record, quantity, colors)
    of_metric = _OF_METRIC.get(quantity, "{}").format(metric_label(record.metric))
    frame.done(
        title,
        x=_X_LABELS.get(quantity, "block" if quantity in _BY_BLOCK else "path length"),
        y=_Y_LABELS.get(quantity, of_metric),
        percent=quantity.endswith("_share") or (quantity not in _Y_LABELS and is_share(record.metric)),
    )


def _ends(record: Comparison, quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the intervals; NaN for what is exact."""
    low, high = (getattr(record, f"{quantity}_{end}", None) for end in ("low", "high"))
    none = np.full_like(getattr(record, quantity), np.nan)
    return (none, none) if low is None or high is None else (low, high)


def _by_block(frame: Frame, record: Comparison, quantity: Quantity, colors: _Colors) -> None:
    """Points with intervals, side by side in each block's place; lines where there are many models."""
    places, few = frame.places(record.blocks), colors.bar is None
    width = min(0.3, 0.08 * len(record.models))
    shifts = np.linspace(-width, width, len(record.models))
    values, (low, high) = getattr(record, quantity), _ends(record, quantity)
    for model, (name, color) in enumerate(zip(record.models, colors.of_models, strict=True)):
        style: dict[str, Any] = {"color": color, "label": frame.series(literal(name))}
        if few:
            errors = bars(values[model], low[model], high[model])
            frame.ax.errorbar(places + shifts[model], values[model], errors, fmt="o", markersize=marker(0.5), **style)
        else:
            frame.ax.plot(places, values[model], **style)
    frame.zero()


def _curves(frame: Frame, record: Comparison, quantity: Quantity, colors: _Colors) -> None:
    """A curve for each model, with bands where there are few models."""
    frame.ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    values, (low, high) = getattr(record, quantity), _ends(record, quantity)
    x = record.lengths  # as many as numbers of deleted blocks
    if quantity == "deletion":  # starting with the full model
        x = np.array([0, *record.counts])
        whole = zip((record.values, record.low, record.high), (values, low, high), strict=True)
        values, low, high = (np.column_stack(ends) for ends in whole)
    for model, (name, color) in enumerate(zip(record.models, colors.of_models, strict=True)):
        frame.ax.plot(x, values[model], color=color, marker=".", label=frame.series(literal(name)))
        there = np.isfinite(low[model]) & np.isfinite(high[model])
        if colors.bar is None and there.any():
            frame.ax.fill_between(x, low[model], high[model], where=there, color=color, alpha=0.15, linewidth=0)
    if quantity in ("deletion", "frontier", "recommended"):
        frame.from_zero()
    else:
        frame.zero()
