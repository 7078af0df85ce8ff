"""Shared by all plots: colours that are safe for colour-blind readers (Okabe and Ito), and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure

from ..arguments import checked
from ..arguments.shown import shown
from ..files import whole_file

BLUE, ORANGE, GREEN, GREY, RED = "#0072B2", "#E69F00", "#009E73", "#666666", "#D55E00"


def axes(ax: Axes | None, size: tuple[float, float] = (8, 4)) -> Axes:
    """The given axes, or those of a new figure without a window."""
    if ax is not None:
        return ax
    axes: Axes = Figure(figsize=size, layout="constrained").subplots()
    return axes


def known_color(color: str) -> str:
    """The color, if matplotlib knows it.

    Raises:
        ValueError: it does not.
    """
    if not is_color_like(color):
        raise ValueError(f"expected a color as matplotlib names one, such as 'red' or '#0072B2', got {shown(color)}")
    return color


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


@checked
def save(ax: Axes, path: str | Path) -> Path:
    """Write the figure that contains these axes.

    Raises:
        ValueError: the suffix is not a format that matplotlib writes.
    """
    figure = ax.get_figure()
    formats = figure.canvas.get_supported_filetypes()  # type: ignore[union-attr]
    if Path(path).suffix.removeprefix(".").lower() not in formats:
        raise ValueError(f"expected a name that ends in {', '.join(f'.{ending}' for ending in formats)}, got {path!s}")
    with whole_file(path) as partial, matplotlib.rc_context({"svg.hashsalt": "resnet_paths"}):
        figure.savefig(partial, dpi=150)  # type: ignore[union-attr]
    return Path(path)
