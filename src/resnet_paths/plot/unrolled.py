"""The picture of the unrolled view: a network's blocks, and the paths that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path
from matplotlib.typing import ColorType

from ..arguments import checked
from ..network import BlockRef, UnrolledNetwork
from ..nouns import counted
from ..paths.block_graph import BRANCH, SHORTCUT, PathGraph, path_graph
from ._fitting import text_width
from ._frame import Frame, Look, thin
from ._style import ink

_HALF = 0.26  # of the distance between blocks: half the width of a box
_TALL = 0.3  # half its height in the network, in rows of the paths
_ROW = 0.2  # half its height in a path
_CORNER = 0.06


@checked
def plot_unrolled(
    net: UnrolledNetwork,
    ax: Axes | None = None,
    *,
    lesioned: Sequence[BlockRef] = (),
    most_paths: int = 16,
    **look: Unpack[Look],
) -> Axes:
    """The network with its shortcuts, and below it each of its paths, as figure 1 of Veit et al. (2016).

    A box is a block's branch, and an arc its shortcut. In a path, a box is a branch that it passes; everywhere else it
    takes the shortcut. A chain of n blocks has 2^n paths. Blocks may be nested or beside the main chain; arcs show
    what each reads. A lesioned block, and each path through it, is drawn dashed: half of a chain's paths remain.

    Args:
        net: the network.
        ax: draw here.
        lesioned: blocks to draw as deleted.
        most_paths: draw single paths only of a network that has at most as many.
        **look: label, color, title and legend; see :class:`Look`.

    Cost: one pass over the graph, and no forward pass.

    Example:
        >>> from resnet_paths import cifar_resnet, unroll
        >>> net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2)).eval())
        >>> plot_unrolled(net, lesioned=[1]).get_title()
        '3 blocks, 4 of 8 paths remain'
    """
    graph = path_graph(net)
    gone = frozenset(net.indices(lesioned))
    paths = _taken(graph) if graph.paths <= most_paths else []
    rows = len(paths) + 2.5
    frame = Frame(ax, (max(5.0, 0.5 * graph.n + 1.5), 0.8 + 0.26 * rows), **look)
    names = [net[block].name for block in graph.blocks]
    frame.places(names)
    _Drawing(frame, graph, gone).draw(paths)
    frame.ax.set_xlim(-1.1, graph.n + 0.1)
    frame.ax.spines[:].set_visible(False)
    frame.ax.tick_params(axis="both", which="both", length=0)
    return frame.done(_title(graph, gone, len(net)))


def _taken(graph: PathGraph) -> list[frozenset[int]]:
    """The blocks whose branches each path passes, short paths first."""
    walks = [graph.walk(rank) for rank in range(graph.paths)]
    blocks = [
        frozenset(graph.vertices[position].block for position, term, _ in walk if term.kind == BRANCH) for walk in walks
    ]
    return sorted(blocks, key=len)  # type: ignore[arg-type]


def _title(graph: PathGraph, gone: frozenset[int], n: int) -> str:
    left = sum(graph.weighted_counts([int(block not in gone) for block in range(n)]))
    blocks = counted(graph.n, "block")
    if gone:
        return f"{blocks}, {_number(int(left))} of {_number(graph.paths)} paths remain"
    return f"{blocks}, {_number(graph.paths)} path{'s' if graph.paths != 1 else ''}"


def _number(count: int) -> str:
    """A number of paths; large powers of two as such."""
    if count >= 2**10 and count & (count - 1) == 0:
        return f"$2^{{{count.bit_length() - 1}}}$"
    return f"{count:,}" if count < 10**9 else f"{count:.3g}"


@dataclass
class _Drawing:
    """Draws a path graph: blocks at 0, 1, ... from left to right, their sums half a step later."""

    frame: Frame
    graph: PathGraph
    gone: frozenset[int]

    def draw(self, paths: Sequence[frozenset[int]]) -> None:
        """The network at height 0, and the paths below."""
        self.at = self._positions()
        for position, vertex in enumerate(self.graph.vertices):
            self._vertex(position)
            for term in vertex.terms:
                lost = term.kind == BRANCH and vertex.block in self.gone
                for source in term.sources:
                    self._edge(source, position, term.kind, lost)
        known: set[bool] = set()
        for column, block in enumerate(self.graph.blocks):
            is_gone = block in self.gone
            label = self.frame.detail("lesioned block") if is_gone else self.frame.label("block")
            self._box(column, 0.0, _TALL, is_gone, f"block {block}", None if is_gone in known else label)
            known.add(is_gone)
            self._write(column, str(block), is_gone)
        low = -1.4 - len(paths)
        self.frame.ax.set_yticks([0], ["network"])
        if paths:
            self._paths(paths)
        highest = max((self._height(s, p) for p, v in enumerate(self.graph.vertices) for t in v.terms
                       for s in t.sources if t.kind == SHORTCUT), default=0.5)  # fmt: skip
        self.frame.ax.set_ylim(low if paths else -2.5, highest + (0.4 if paths else 2.0))

    def _positions(self) -> list[float]:
        """Where each vertex stands: a sum after its block, a start before its first reader, the output last."""
        column = {block: place for place, block in enumerate(self.graph.blocks)}
        last = len(self.graph.vertices) - 1
        at = [float(column[v.block]) + 0.5 if v.block is not None else len(column) - 0.1 for v in self.graph.vertices]
        for position, vertex in enumerate(self.graph.vertices):
            if vertex.block is None and position != last:
                readers = [
                    at[later]
                    for later, other in enumerate(self.graph.vertices)
                    if any(position in term.sources for term in other.terms)
                ]
                at[position] = min(readers, default=0.5) - 1.0
        at[self.graph.starts[0] if self.graph.starts else 0] = -0.9
        return at

    def _vertex(self, position: int) -> None:
        vertex, ax = self.graph.vertices[position], self.frame.ax
        if vertex.block is not None:
            ax.plot(self.at[position], 0, "o", color=ink(), markersize=thin(2.5), zorder=4)
        elif vertex.terms:
            ax.annotate("", (self.at[position], 0), (self.at[position] - 0.2, 0), arrowprops=self._arrow())
        else:
            ax.plot(self.at[position], 0, "|", color=ink(), markersize=thin(6), zorder=4)

    def _arrow(self) -> dict[str, Any]:
        return {"arrowstyle": "->", "color": ink(), "linewidth": thin(), "shrinkA": 0, "shrinkB": 0}

    def _height(self, source: int, position: int) -> float:
        span = max(self.at[position] - self.at[source], 1.0)
        return float(0.35 + 0.35 * span**0.6)

    def _edge(self, source: int, position: int, kind: str, lost: bool) -> None:
        """A shortcut above, what a branch reads straight or below, the way to the output straight."""
        begin, end = self.at[source], self.at[position]
        straight = end - begin < 1.05 or source == 0 == position - 1
        style: dict[str, Any] = {
            "linestyle": "--" if lost else "-",
            "color": ink(0.35 if lost else 1.0),
            "gid": f"{kind} {position}",
        }
        if kind == SHORTCUT:
            self._arc(begin, end, self._height(source, position), style)
        elif straight:
            self.frame.ax.plot([begin, end], [0, 0], linewidth=thin(), zorder=2, **style)
        else:
            goal = end - 0.5 - _HALF if kind == BRANCH else end
            self._arc(begin, goal, -0.45 - 0.12 * (goal - begin), style)
            if kind == BRANCH:
                self.frame.ax.plot([end - 0.5, end], [0, 0], linewidth=thin(), zorder=2, **style)

    def _arc(self, begin: float, end: float, height: float, style: dict[str, Any]) -> None:
        rise = 4 / 3 * height  # a cubic curve with both handles there reaches the height in its middle
        path = Path(
            [(begin, 0), (begin + 0.1, rise), (end - 0.1, rise), (end, 0)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        )
        style = {**style, "edgecolor": style["color"]}
        del style["color"]
        self.frame.ax.add_patch(PathPatch(path, facecolor="none", linewidth=thin(), zorder=2, **style))

    def _box(self, x: float, y: float, half: float, lost: bool, gid: str, label: str | None = None) -> None:
        fill: ColorType = "none" if lost else self.frame.color
        edge = ink(0.5) if lost else self.frame.color
        box = FancyBboxPatch(
            (x - _HALF, y - half), 2 * _HALF, 2 * half, boxstyle=f"round,pad=0,rounding_size={_CORNER}",
            facecolor=fill, edgecolor=edge, linestyle="--" if lost else "-", linewidth=thin(), zorder=3, gid=gid,
            label=label,
        )  # fmt: skip
        self.frame.ax.add_patch(box)

    def _write(self, x: float, text: str, lost: bool) -> None:
        """The block's number in its box, if there is room."""
        font = self.frame.ax.xaxis.label.get_fontproperties()
        if text_width(text, font) < 1.6 * _HALF * self.frame.room.width / (self.graph.n + 1.2):
            paper = self.frame.ax.get_facecolor()
            color = ink(0.5) if lost else paper if paper[-1] else "white"
            self.frame.ax.text(x, 0, text, ha="center", va="center_baseline", color=color, zorder=5)

    def _paths(self, paths: Sequence[frozenset[int]]) -> None:
        """Every path as a row: from the input on the left to the output on the right."""
        column = {block: place for place, block in enumerate(self.graph.blocks)}
        heights = [-1.4 - row for row in range(len(paths))]
        middle = (heights[0] + heights[-1]) / 2
        begin, end = -0.9, len(column) - 0.1
        for path, y in zip(paths, heights, strict=True):
            lost = bool(path & self.gone)
            gid = "path " + ",".join(map(str, sorted(path)))
            self.frame.ax.plot(
                [begin, begin + 0.4, end - 0.4, end], [middle, y, y, middle], "--" if lost else "-",
                color=ink(0.35 if lost else 1.0), linewidth=thin(), zorder=2, gid=gid,
            )  # fmt: skip
            for block in path:
                self._box(column[block], y, _ROW, lost, f"{gid}: {block}")
        lengths = sorted({len(path) for path in paths})
        ticks = [
            sum(y for path, y in zip(paths, heights, strict=True) if len(path) == length)
            / sum(len(path) == length for path in paths)
            for length in lengths
        ]
        self.frame.ax.set_yticks([0, *ticks], ["network", *(f"length {length}" for length in lengths)])
