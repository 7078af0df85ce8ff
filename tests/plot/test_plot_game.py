"""Waterfall, network of interactions and pages of images draw the numbers of their records."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import same_color

from plot_checks import COLUMN, check_readable, figures_of
from resnet_paths import block_values, cifar_resnet, unroll
from resnet_paths.data import digits
from resnet_paths.lesion import BlockInteractions, TurnedImages, turned_images
from resnet_paths.plot import (
    plot_interaction_network,
    plot_turned_images,
    plot_value_waterfall,
    save,
    turned_pages,
)

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def setting():
    return unroll(cifar_resnet(14, in_channels=1, widths=(2, 2, 4), seed=0).eval()), digits().subset(slice(0, 8))


@pytest.fixture(scope="module")
def game(setting):
    return block_values(*setting, interactions=True, **QUIET)


def bars(ax) -> list[tuple[float, float]]:
    return [
        (bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches if bar.get_height() == pytest.approx(0.7)
    ]


def test_the_values_add_up_from_no_block_to_all(game) -> None:
    ax = plot_value_waterfall(game)
    drawn = bars(ax)
    order = np.argsort(-game.values)
    np.testing.assert_allclose([before - after for before, after in drawn], game.values[order], atol=1e-12)
    np.testing.assert_allclose([drawn[0][0], drawn[-1][1]], [game.empty, game.full])
    np.testing.assert_allclose([after for _, after in drawn[:-1]], [before for before, _ in drawn[1:]])
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["none of them", *(game.names[block] for block in order), "all blocks"]
    assert ax.yaxis_inverted()


def test_values_that_are_not_numbers_are_reported_before_matplotlib_meets_them(game) -> None:
    with pytest.raises(ValueError, match=r"^expected finite values to add up, got NaN or infinities of the loss$"):
        plot_value_waterfall(dataclasses.replace(game, full=float("nan")))


def test_an_error_becomes_an_accuracy_that_rises() -> None:
    values = np.array([0.1, 0.6, -0.1, 0.2])
    made = _game(values, "error", full=0.1, empty=0.9)
    ax = plot_value_waterfall(made, most=2)
    drawn = bars(ax)
    np.testing.assert_allclose(drawn, [(0.1, 0.7), (0.7, 0.9), (0.9, 0.9)], atol=1e-12)
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["none of them", "b1", "b3", "2 others", "all blocks"]
    assert ax.get_xlabel() == "accuracy"
    assert [text.get_text() for text in ax.texts] == ["+60", "+20", "+0"]


def test_the_remainder_of_values_is_a_separate_bar() -> None:
    ax = plot_value_waterfall(_game(np.array([0.3, 0.1]), "loss", full=1.0, empty=2.0))
    assert [label.get_text() for label in ax.get_yticklabels()][-2:] == ["acting together", "all blocks"]
    np.testing.assert_allclose(bars(ax)[-1], (1.6, 1.0))


def _game(values: np.ndarray, metric: str, *, full: float, empty: float):
    net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval())
    made = block_values(net, digits().subset(slice(0, 2)), metric=metric, **QUIET)
    names = tuple(f"b{block}" for block in range(len(values)))
    return dataclasses.replace(made, names=names, values=values, full=full, empty=empty)


def edges(ax) -> dict[tuple[int, int], object]:
    return {tuple(map(int, line.get_gid().split(","))): line for line in ax.lines if line.get_gid()}


def test_edges_are_interactions(game) -> None:
    low, high = game.interaction_intervals()
    ax = plot_interaction_network(game)
    drawn = edges(ax)
    assert set(drawn) == set(zip(*np.triu_indices(len(game.names), 1), strict=True))
    assert {text.get_text() for text in ax.texts} == set(game.names)
    colors = {True: set(), False: set()}
    for pair, line in drawn.items():
        colors[bool(game.interactions[pair] >= 0)].add(line.get_color())
        assert (line.get_linestyle() == "--") == (not (low[pair] > 0 or high[pair] < 0))
    assert [len(found) for found in colors.values()] == [1, 1]
    assert colors[True] != colors[False]
    widths = np.array([line.get_linewidth() for line in drawn.values()])
    sizes = np.abs([game.interactions[pair] for pair in drawn])
    np.testing.assert_array_equal(np.argsort(widths), np.argsort(sizes))


def test_interactions_without_intervals_are_whole_lines(game) -> None:
    pairs = {(0, 1): 0.5, (0, 2): -0.2, (1, 2): 0.0, (0,): 1.0}
    made = BlockInteractions(
        pairs, ("a", "b", "c"), (0, 1, 2), "SII", 2, "loss", True, 8, game.evaluations, game.source
    )
    ax = plot_interaction_network(made, color="crimson")
    assert {line.get_linestyle() for line in edges(ax).values()} == {"-"}
    assert same_color(edges(ax)[0, 1].get_color(), "crimson")
    assert not same_color(edges(ax)[0, 2].get_color(), "crimson")


@pytest.fixture(scope="module")
def turned(setting) -> TurnedImages:
    net, data = setting
    data = dataclasses.replace(data, labels=net(data.x).argmax(-1))
    return turned_images(net, data, range(len(net)), **QUIET)


def test_images_turn_wrong_where_the_prediction_changes(setting, turned) -> None:
    import torch

    net, data = setting
    with torch.no_grad():
        full, without = net(data.x).softmax(-1), net(data.x, torch.zeros(len(net))).softmax(-1)
    changed = torch.nonzero(full.argmax(-1) != without.argmax(-1)).flatten().tolist()
    assert sorted(turned.indices.tolist()) == changed
    assert changed
    np.testing.assert_allclose(turned.confidence, full.amax(-1)[turned.indices].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(turned.predictions, without.argmax(-1)[turned.indices])
    np.testing.assert_allclose(turned.changed_confidence, without.amax(-1)[turned.indices].numpy(), rtol=1e-4)
    assert (np.diff(turned.confidence) <= 0).all()
    np.testing.assert_array_equal(turned.pictures[..., 0], (255 * data.images[turned.indices, 0]).round().numpy())
    assert turned.full_right == len(data)
    none = turned_images(net, data, [], **QUIET)
    assert len(none.indices) == 0
    assert plot_turned_images(none).get_title().startswith(f"0 of {none.full_right} right answers")


def test_pages_show_each_image_once_with_both_predictions(turned, tmp_path) -> None:
    import matplotlib

    many = dataclasses.replace(turned, **{
        name: np.concatenate([getattr(turned, name)] * 3)
        for name in ("indices", "labels", "confidence", "predictions", "changed_confidence", "pictures")
    })  # fmt: skip
    with matplotlib.rc_context(COLUMN):
        pages = turned_pages(many, rows=2, columns=3)
    shown = [image for page in pages for image in page.images]
    assert len(shown) == len(many.indices)
    for image, expected in zip(shown, many.pictures, strict=True):
        np.testing.assert_array_equal(image.get_array(), expected)
    first = [text.get_text() for text in pages[0].texts[:3]]
    label, wrong = many.classes[many.labels[0]], many.classes[many.predictions[0]]
    assert first == [
        f"image {many.indices[0]}",
        f"{label} ({100 * many.confidence[0]:.0f} %)",
        f"{wrong} ({100 * many.changed_confidence[0]:.0f} %)",
    ]
    check_readable(figures_of(pages)[0])
    assert save(pages, tmp_path / "wrong.pdf").read_bytes().count(b"/Type /Page ") == len(pages)
    with pytest.raises(ValueError, match=f"expected a page from 1 to {len(pages)}, got 99"):
        plot_turned_images(many, rows=2, columns=3, page=99)
