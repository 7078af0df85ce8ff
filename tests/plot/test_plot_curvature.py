"""Pictures of curvature and trajectories: the numbers drawn are the record's, every axis is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from torch import nn

from helpers import source
from references.tiny import tiny_batch, tiny_network
from resnet_paths.landscape import (
    Surface,
    TrajectoryLosses,
    block_eigenvalues,
    curvature_operator,
    project_trajectory,
    spectral_density,
)
from resnet_paths.plot import (
    plot_block_eigenvalues,
    plot_eigenvalue_ratio,
    plot_spectrum,
    plot_trajectory,
    plot_trajectory_losses,
)


def _named(ax) -> bool:
    return bool(ax.get_xlabel() and ax.get_ylabel() and ax.get_title())


def test_spectrum_draws_the_density_above_its_floor() -> None:
    record = spectral_density(curvature_operator(tiny_network(2), [tiny_batch()]), steps=6, draws=2, grid=50)
    ax = plot_spectrum(record, label="tiny")
    drawn = np.asarray(ax.lines[0].get_ydata())
    above = record.density > drawn.min()
    np.testing.assert_allclose(drawn[above], record.density[above])
    assert ax.get_yscale() == "log"
    assert _named(ax)
    given = Figure().subplots()
    assert plot_spectrum(record, given) is given


def test_blocks_draw_sizes_of_both_ends() -> None:
    record = block_eigenvalues(tiny_network(3), [tiny_batch()])
    ax = plot_block_eigenvalues(record)
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.lines}
    assert (record.largest > 0).tolist() == [False, True, True]  # the first block's ReLUs are dead on this batch
    np.testing.assert_allclose(lines["largest"], record.largest[1:])
    assert "1 without a positive eigenvalue" in ax.get_title().replace("\n", " ")
    np.testing.assert_allclose(lines["smallest, negative (magnitude)"], -record.smallest[record.smallest < 0])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(record.names)
    assert _named(ax)


def test_ratio_is_drawn_from_zero_to_one_and_says_its_largest() -> None:
    values = np.array([[0.2, np.nan, 3.0], [0.0, 0.5, 0.1]])
    ax = plot_eigenvalue_ratio(Surface.of(np.arange(3.0), np.arange(2.0), ratio=values))
    mesh = next(item for item in ax.collections if isinstance(item, QuadMesh))
    np.testing.assert_allclose(np.ma.filled(mesh.get_array(), np.nan).ravel(), values.ravel())
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0, 1)
    assert "largest 3" in ax.get_title()
    assert _named(ax)


def test_trajectory_says_what_its_axes_explain() -> None:
    rng = np.random.default_rng(0)
    states = [{"weight": torch.from_numpy(row)[None]} for row in rng.standard_normal((5, 4))]
    line = nn.Linear(4, 1, bias=False).double()
    record = project_trajectory(line, states)
    given = Figure().subplots()
    given.set_title("a surface")
    ax = plot_trajectory(record, given)
    assert ax is given
    assert ax.get_title() == "a surface"
    path = ax.lines[0]
    np.testing.assert_allclose(np.stack([path.get_xdata(), path.get_ydata()], 1), record.coordinates)
    assert f"{100 * record.explained[0]:.1f} %" in ax.get_xlabel()
    assert "random walk 61 %" in ax.get_xlabel()
    assert f"{100 * record.explained[1]:.1f} %" in ax.get_ylabel()
    assert _named(plot_trajectory(record))
    with pytest.raises(ValueError, match="two directions"):
        plot_trajectory(project_trajectory(line, states, count=1))


def test_losses_are_drawn_beside_each_other() -> None:
    rng = np.random.default_rng(0)
    true, own, projected = rng.random((3, 4))
    record = TrajectoryLosses(tuple("abcd"), true, own, projected, np.full((4, 3), 0.1), 9, source())
    ax = plot_trajectory_losses(record)
    drawn = [container.lines[0].get_ydata() for container in ax.containers]
    np.testing.assert_allclose(drawn, [true, own, projected])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list("abcd")
    assert _named(ax)
