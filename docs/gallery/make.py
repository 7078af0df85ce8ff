"""Makes the gallery's pictures by running the code that its page shows: ``python docs/gallery/make.py``.

They are SVG, and small enough to be read on a phone. Black and the colours of the plots become CSS variables, which
follow the light or dark theme of the page that shows them. With names, such as ``surface``, only these are changed.
"""

import contextlib
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import torch
from matplotlib.colors import LinearSegmentedColormap

from resnet_paths.report.pictures import themed

HERE = Path(__file__).resolve().parent
INK = "#010203"  # not black: matplotlib leaves it out of an SVG, as the default there
LOOK = {
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "svg.fonttype": "none",  # text stays text, in the font of the reader
    "svg.hashsalt": "gallery",  # the same numbers make the same file
    "figure.figsize": (5.6, 4.0),
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.cmap": "gallery",
}
SCALE = LinearSegmentedColormap.from_list("gallery", ["#3b82c4", "#009e73", "#c2a008", "#d55e00"])
"""Legible on white and on black, which no scale of matplotlib's own is from end to end."""

LIGHT = "--ink:#1f2328;--grey:#666;--blue:#0072b2;--green:#009e73;--red:#d55e00;--orange:#e69f00"
DARK = (
    "--ink:#e6edf3;--grey:#9da7b3;--blue:#58b4ee;--green:#2fcb9b;--red:#ff7f3f;--orange:#f0b429"
)
SIGNS = (
    "--above:#b35806;--below:#542788;--zero:#f7f7f7",
    "--above:#f0a35e;--below:#a58fd0;--zero:#23272e",
)


def standalone(svg: str) -> str:
    """A figure as a standalone file with its own colours, because a page cannot pass its colours to an image."""
    made = themed(svg)
    light, dark = (
        f":root{{{colours};{signs}}}" for colours, signs in zip((LIGHT, DARK), SIGNS, strict=True)
    )
    style = f"<style>{light}text{{fill:var(--ink)}}@media(prefers-color-scheme:dark){{{dark}}}</style>"
    head = made.index(">") + 1
    return made[:head] + style + made[head:]


def main(only: set[str]) -> None:
    """Run the blocks of the page in order, in a folder of their own; keep the pictures named, or all."""
    page = (HERE / "index.md").read_text()
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__main__"}
    matplotlib.colormaps.register(SCALE, force=True)
    with TemporaryDirectory() as folder, contextlib.chdir(folder), matplotlib.rc_context(LOOK):
        for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
            exec(compile(block, "index.md", "exec"), names)
        for picture in Path(folder).glob("*.svg"):
            if not only or picture.stem in only:
                (HERE / picture.name).write_text(standalone(picture.read_text()))


if __name__ == "__main__":
    main(set(sys.argv[1:]))
