"""Shared by all plots: colours, escaped names, and lengths of error bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, is_color_like, to_hex, to_rgba
from matplotlib.typing import ColorType

from ..arguments.shown import shown

_SAFE = dict(
    zip(
        ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#17becf"),
        ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"),
        strict=True,
    )
)
"""For colours of matplotlib's own default cycle, those of Okabe and Ito, which colour-blind readers can distinguish."""


def next_color(ax: Axes) -> str:
    """The next colour of the axes' cycle, which is the user's ``axes.prop_cycle``."""
    (line,) = ax.plot([], [])
    color = to_hex(line.get_color())
    line.remove()
    return _SAFE.get(color, color)


def cycle(count: int) -> list[ColorType]:
    """As many colours as there are records: those of the user's cycle, or of their colour scale if there are more."""
    colors = [_SAFE.get(to_hex(color), to_hex(color)) for color in rcParams["axes.prop_cycle"].by_key()["color"]]
    safe = [color for color in colors if color in _SAFE.values()] or colors
    if count <= len(safe):
        return list(safe[:count])
    scale = colormaps[rcParams["image.cmap"]]
    return [scale(position) for position in np.linspace(0, 0.9, count)]


def ink(strength: float = 1.0) -> ColorType:
    """The user's colour of text, for lines that belong to no record; paler with less strength."""
    return to_rgba(rcParams["text.color"], strength)


def known_color(color: ColorType) -> ColorType:
    """The color, if matplotlib knows it.

    Raises:
        ValueError: it does not.
    """
    if not is_color_like(color):
        raise ValueError(f"expected a color as matplotlib names one, such as 'red' or '#0072B2', got {shown(color)}")
    return color


def is_scale(color: object) -> bool:
    """Whether a color is the name of a colour scale."""
    return isinstance(color, str) and color in colormaps


def shades(color: ColorType | None) -> Colormap:
    """A scale from paper to a color; without one, the user's ``image.cmap``. The name of a scale gives that scale."""
    if color is None or is_scale(color):
        return colormaps[str(color or rcParams["image.cmap"])]
    return LinearSegmentedColormap.from_list("shades", [rcParams["axes.facecolor"], known_color(color)])


def signed_shades(color: ColorType | None, default: str = "PuOr_r") -> Colormap:
    """A scale for both signs, white at zero; a color is that of the positive side, the negative one is grey."""
    if color is None or is_scale(color):
        return colormaps[str(color or default)]
    return LinearSegmentedColormap.from_list("signed", [ink(0.7), rcParams["axes.facecolor"], known_color(color)])


def literal(text: str) -> str:
    r"""Escape a user's name: between two dollar signs, matplotlib would typeset a formula or fail.

    Example:
        >>> print(literal("cash$flow$"))
        cash\$flow\$
    """
    return text.replace("$", r"\$")


def literals(names: Sequence[str]) -> list[str]:
    """Escape several names."""
    return [literal(name) for name in names]


def bars(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(2, n) lengths of error bars down to `low` and up to `high`; zero towards an infinite end."""
    lengths = np.stack([values - low, high - values]).astype(float).clip(0)
    return np.where(np.isfinite(lengths), lengths, np.nan)
