"""Pictures of paths: the numbers drawn are the record's, every axis is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from references.tiny import tiny_batch, tiny_network
from resnet_paths.paths import (
    block_contributions,
    effective_paths,
    enumerate_path_gradients,
    gradient_by_length,
    logit_lens,
    path_lengths,
)
from resnet_paths.plot import (
    plot_block_contributions,
    plot_effective_paths,
    plot_gradient_by_length,
    plot_gradient_share,
    plot_logit_lens,
    plot_path_lengths,
)


def _named(ax) -> bool:
    return bool(ax.get_xlabel() and ax.get_ylabel() and ax.get_title())


def test_length_histogram_draws_the_distribution() -> None:
    record = path_lengths(12)
    ax = plot_path_lengths(record)
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in ax.patches}
    np.testing.assert_allclose([heights[k] for k in range(13)], record.probability)
    assert _named(ax)


def test_figure_six_draws_on_the_axes_given() -> None:
    found = effective_paths(enumerate_path_gradients(tiny_network(6), *tiny_batch()))
    given = list(Figure().subplots(1, 3))
    drawn = plot_effective_paths(found, given)
    assert all(a is b for a, b in zip(given, drawn, strict=True))
    assert all(_named(ax) for ax in drawn)
    assert drawn[1].get_yscale() == "log"
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in drawn[2].patches}
    np.testing.assert_allclose([heights[k] for k in range(7)], found.share)
    assert len(plot_effective_paths(found)) == 3
    with pytest.raises(ValueError, match="three axes"):
        plot_effective_paths(found, given[:2])


def test_gradient_by_length_draws_medians_and_total() -> None:
    split = gradient_by_length(tiny_network(5), *tiny_batch())
    ax = plot_gradient_by_length(split)
    median, total = ax.lines[0], ax.lines[1]
    seen = (split.norms > 0).any(1)
    np.testing.assert_allclose(median.get_ydata(), split.norms[seen].median(1).values)
    assert total.get_ydata()[0] == np.median(split.total_norm)
    assert _named(ax)
    assert ax.get_yscale() == "log"


def test_a_gradient_of_zero_leaves_its_band_where_the_others_are() -> None:
    split = gradient_by_length(tiny_network(5), *tiny_batch())
    norms = split.norms.clone()
    norms[2, 0] = 0
    ax = plot_gradient_by_length(dataclasses.replace(split, norms=norms))
    (corners,) = [path.vertices for path in ax.collections[0].get_paths()]
    assert corners[corners[:, 0] == 2][:, 1].min() == pytest.approx(float(norms[2][norms[2] > 0].min()))


def test_shares_of_the_gradient_add_up_to_all_of_it() -> None:
    split = gradient_by_length(tiny_network(5), *tiny_batch())
    some = split.share[:, split.total_norm > 0]
    assert 0 < some.shape[1] < split.share.shape[1]  # an example without a gradient has no shares
    ax = plot_gradient_share(split)
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, some.mean(1))
    summed = next(line for line in ax.lines if "up to" in str(line.get_label()))
    np.testing.assert_allclose(summed.get_ydata(), np.cumsum(heights))
    assert summed.get_ydata()[-1] == pytest.approx(1)
    assert _named(ax)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_no_gradient_at_all_is_reported_before_matplotlib_meets_it(value: float) -> None:
    split = gradient_by_length(tiny_network(5), *tiny_batch())
    nothing = {name: torch.full_like(getattr(split, name), value) for name in ("norms", "total_norm")}
    gone = dataclasses.replace(split, **nothing, share=torch.full_like(split.share, float("nan")))
    with pytest.raises(ValueError, match=r"^expected norms above zero for a logarithmic scale, got none"):
        plot_gradient_by_length(gone)
    with pytest.raises(ValueError, match=r"^expected an example with a gradient, got none"):
        plot_gradient_share(gone)


def test_contributions_are_a_picture_of_blocks_by_examples() -> None:
    net, (x, target) = tiny_network(4), tiny_batch()
    record = block_contributions(net, x, target)
    ax = plot_block_contributions(record)
    assert record.of_target is not None
    np.testing.assert_allclose(ax.images[0].get_array(), record.of_target)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(record.sources)
    assert _named(ax)
    with pytest.raises(ValueError, match="pass target"):
        plot_block_contributions(block_contributions(net, x))


def test_logit_lens_draws_the_targets_probability() -> None:
    net, (x, target) = tiny_network(4), tiny_batch()
    lens = logit_lens(net, x)
    ax = plot_logit_lens(lens, target)
    mean = next(line for line in ax.lines if "mean" in str(line.get_label()))
    expected = lens.probabilities[:, torch.arange(3), target].mean(1)
    np.testing.assert_allclose(mean.get_ydata(), expected)
    assert _named(ax)
