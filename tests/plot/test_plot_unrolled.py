"""The picture of the unrolled network has every block, every shortcut and every path."""

from __future__ import annotations

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from references.tiny import tiny_network
from resnet_paths import path_lengths, unroll
from resnet_paths.plot import plot_unrolled


def marked(ax, kind: str) -> dict[str, object]:
    artists = [*ax.patches, *ax.lines]
    return {artist.get_gid(): artist for artist in artists if str(artist.get_gid() or "").startswith(kind)}


def paths_of(ax) -> set[frozenset[int]]:
    return {
        frozenset(int(block) for block in gid.removeprefix("path ").split(",") if block)
        for gid in marked(ax, "path ")
        if ":" not in gid
    }


def is_dashed(artist) -> bool:
    return artist.get_linestyle() in ("--", "dashed")


def test_a_chain_has_a_row_for_each_set_of_branches() -> None:
    ax = plot_unrolled(tiny_network(3))
    assert paths_of(ax) == {frozenset(k for k in range(3) if code >> k & 1) for code in range(8)}
    boxes = [gid for gid in marked(ax, "path ") if ":" in gid]
    assert len(boxes) == sum(k * count for k, count in enumerate(path_lengths(3).count(k) for k in range(4)))
    assert len(marked(ax, "block ")) == 3
    assert len(marked(ax, "shortcut ")) == 3
    assert ax.get_title() == "3 blocks, 8 paths"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["network", *(f"length {k}" for k in range(4))]


def test_lesioned_blocks_and_the_paths_through_them_are_dashed() -> None:
    ax = plot_unrolled(tiny_network(3), lesioned=[1])
    assert {gid for gid, box in marked(ax, "block ").items() if is_dashed(box)} == {"block 1"}
    rows = {gid: row for gid, row in marked(ax, "path ").items() if ":" not in gid}
    assert {gid for gid, row in rows.items() if is_dashed(row)} == {gid for gid in rows if "1" in gid}
    assert ax.get_title() == "3 blocks, 4 of 8 paths remain"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["block", "lesioned block"]


def test_a_deep_network_is_drawn_without_its_single_paths() -> None:
    given = Figure(layout="constrained").subplots()
    ax = plot_unrolled(tiny_network(12), given, lesioned=[0])
    assert ax is given
    assert paths_of(ax) == set()
    assert len(marked(ax, "block ")) == 12
    assert ax.get_title() == "12 blocks, $2^{11}$ of $2^{12}$ paths remain"


class Nested(nn.Module):
    """A skip around two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.one(x)
        y = y + self.two(y)
        return x + self.last(y)


class Parallel(nn.Module):
    """Two blocks that read the same value, whose sums are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.one(x)) * (x + self.two(x))


@pytest.mark.parametrize("kind", [Nested, Parallel])
def test_blocks_that_form_no_chain(kind: type[nn.Module]) -> None:
    net = unroll(kind().eval())
    ax = plot_unrolled(net)
    assert len(marked(ax, "block ")) == len(net)
    rows = [gid for gid in marked(ax, "path ") if ":" not in gid]
    lengths = sorted(gid.count(",") + 1 if gid != "path " else 0 for gid in rows)
    counts = path_lengths(net)
    assert set(lengths) == {length for length in range(len(net) + 1) if counts.count(length)}
    assert f"{counts.paths} paths" in ax.get_title()


def test_an_outer_shortcut_passes_above_the_inner_ones() -> None:
    ax = plot_unrolled(unroll(Nested().eval()))
    heights = [arc.get_path().get_extents().y1 for arc in marked(ax, "shortcut ").values()]
    assert len(heights) == 3
    assert max(heights) == heights[-1] > heights[0]
