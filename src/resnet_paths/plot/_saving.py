"""Figures as files, in any format of matplotlib, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..arguments import checked
from ..files import whole_file
from ..imports import first_import


@checked
def save(ax: Axes | Figure | Sequence[Axes | Figure], path: str | Path, **options: Any) -> Path:
    """Write the figure of some axes: a picture, or several as the pages of a PDF.

    Args:
        ax: what a plot function returned: axes, or several of one figure; axes of several figures become pages.
        path: its suffix names the format, such as ``.png``, ``.svg`` or ``.pdf``.
        **options: those of matplotlib's ``savefig``, such as ``dpi``, ``bbox_inches`` or ``transparent``. Without
            ``dpi``, your ``savefig.dpi`` holds, or 150.

    Returns:
        The path.

    Raises:
        ValueError: the suffix is not a format that matplotlib writes, or pages are to go into another format than PDF.

    Example:
        >>> import tempfile
        >>> from resnet_paths import path_lengths
        >>> from resnet_paths.plot import plot_path_lengths
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(plot_path_lengths(path_lengths(3)), folder + "/lengths.pdf", bbox_inches="tight").name
        'lengths.pdf'
    """
    figures = _figures(ax)
    formats = figures[0].canvas.get_supported_filetypes()
    kind = str(options.get("format") or Path(path).suffix.removeprefix(".")).lower()
    if kind not in formats:
        raise ValueError(f"expected a name that ends in {', '.join(f'.{ending}' for ending in formats)}, got {path!s}")
    if len(figures) > 1 and kind != "pdf":
        raise ValueError(f"expected a name that ends in .pdf for {len(figures)} pages, got {path!s}")
    options = {"format": kind, **options}
    if matplotlib.rcParams["savefig.dpi"] == "figure":
        options.setdefault("dpi", 150)
    with whole_file(path) as partial, matplotlib.rc_context({"svg.hashsalt": "resnet_paths"}):
        if len(figures) == 1:
            figures[0].savefig(partial, **options)
        else:
            with first_import("matplotlib.backends.backend_pdf"):  # late: it imports fontTools, 0.3 seconds
                from matplotlib.backends.backend_pdf import PdfPages

            with PdfPages(partial) as pages:
                for figure in figures:
                    figure.savefig(pages, **options)
    return Path(path)


def _figures(drawn: Any) -> list[Figure]:
    """The figures of axes, each once, in order."""
    items = [drawn] if isinstance(drawn, Axes | Figure) else list(drawn)
    if not items:
        raise ValueError("expected axes or figures to write, got none")
    figures = [item if isinstance(item, Figure) else item.figure.figure for item in items]
    return list(dict.fromkeys(figures))
