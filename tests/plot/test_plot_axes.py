"""Axes of blocks and of shares."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.figure import Figure

from resnet_paths import cifar_resnet, single_deletions, unroll
from resnet_paths.data import digits
from resnet_paths.plot import plot_single_deletions

QUIET = {"progress": False}


def drawn(names: list[str], width: float = 4.6):
    """A plot over blocks of these names."""
    model = cifar_resnet(2 + 6 * (len(names) // 3), in_channels=1, widths=(2, 2, 2), seed=0).eval()
    record = single_deletions(unroll(model), digits().subset(slice(0, 4)), **QUIET)
    object.__setattr__(record, "names", tuple(names))
    ax = Figure(figsize=(width, 3), layout="constrained").subplots()
    return plot_single_deletions(record, ax)


def texts(ax, minor: bool = False) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels(minor=minor)]


def test_a_stage_is_named_once_below_the_numbers_of_its_blocks() -> None:
    ax = drawn(["layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer2.1", "layer2.2"])
    assert texts(ax) == ["0", "1", "2", "0", "1", "2"]
    assert texts(ax, minor=True) == ["layer1", "layer2"]
    assert [float(place) for place in ax.xaxis.get_ticklocs(minor=True)] == [1, 4]  # also where a block is


def test_what_all_stages_begin_with_is_left_out() -> None:
    ax = drawn([f"model.net.layer{1 + k // 3}.{k % 3}" for k in range(6)])
    assert texts(ax) == ["0", "1", "2"] * 2
    assert texts(ax, minor=True) == ["layer1", "layer2"]
    ax = drawn([f"encoder.layers.encoder_layer_{k}" for k in range(6)], width=6)
    assert texts(ax) == list("012345")
    assert texts(ax, minor=True) == ["encoder.layers.encoder_layer"]


@pytest.mark.parametrize(
    "names",
    [
        ["one", "two", "three"],
        ["a.first", "a.second", "a.third"],
        [f"a_name_too_long_for_its_block_{k}.0" for k in range(3)],
    ],
    ids=["plain", "words", "long"],
)
def test_other_names_are_written_in_full(names: list[str]) -> None:
    ax = drawn(names)
    assert texts(ax) == names
    assert texts(ax, minor=True) == []


def test_entries_other_than_blocks_keep_their_names_among_the_numbers() -> None:
    ax = drawn(["stem", "layer1.0", "layer1.1"])
    assert texts(ax) == ["stem", "0", "1"]
    assert [label.get_rotation() for label in ax.get_xticklabels()] == [90, 0, 0]


def test_shares_are_percentages_on_the_axis_and_in_the_legend() -> None:
    ax = drawn(["a.0", "a.1", "a.2"])
    ax.get_figure().canvas.draw()
    assert all(label.get_text().endswith(" %") for label in ax.get_yticklabels())
    (whole,) = [text for text in ax.get_legend_handles_labels()[1] if text.startswith("no deletion")]
    assert whole.endswith(" %)")


def test_numbers_of_neighbouring_stages_do_not_touch() -> None:
    ax = drawn([f"layer{1 + k // 9}.{k % 9}" for k in range(27)], width=3.4)
    places = [float(place) for place in ax.get_xticks()]
    step = min(b - a for a, b in itertools.pairwise(places[:3]))
    assert step > 1
    assert all(b - a >= step for a, b in itertools.pairwise(places))
    assert texts(ax)[0] == "0"
