"""Plots of curvature and training trajectories: spectra, blocks, the eigenvalue ratio, trajectories."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from ..arguments import checked
from ..landscape import BlockEigenvalues, ProjectedTrajectory, SpectralDensity, Surface, TrajectoryLosses
from ._frame import Frame, Look, marker, thin
from ._style import ink, literal
from .landscape import plot_surface_heat

_MATRICES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix"}


@checked
def plot_spectrum(record: SpectralDensity, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The density of eigenvalues on a logarithmic scale, with two standard errors over the probes.

    The dotted line is the height of a single eigenvalue: values far below it are tails of the smoothing.

    Args:
        record: see :func:`resnet_paths.landscape.spectral_density`.
        ax: draw here, for instance over another spectrum.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (7, 4), **look)
    one = 1 / (record.size * record.width * np.sqrt(2 * np.pi))
    floor = one / 100
    low, high = (np.maximum(record.density + sign * 2 * record.standard_error, floor) for sign in (-1, 1))
    density = np.maximum(record.density, floor)
    frame.ax.plot(record.grid, density, color=frame.color, label=frame.label("density"))
    band = frame.detail("two standard errors over the probes")
    frame.ax.fill_between(record.grid, low, high, color=frame.color, alpha=0.25, linewidth=0, label=band)
    single = frame.color if frame.is_one_of_several else ink(0.7)
    frame.ax.axhline(
        one, color=single, linestyle=":", linewidth=thin(), label=frame.detail("height of a single eigenvalue")
    )
    frame.ax.set_yscale("log")
    drawn = [float(np.min(line.get_ydata())) for line in frame.ax.get_lines()]
    frame.ax.set_ylim(bottom=min([floor, *drawn]), auto=None)
    return frame.done(
        f"{_MATRICES[record.kind]} of {record.size:,} parameters, {record.samples} samples, {record.draws} probes of "
        f"{record.nodes.shape[1]} steps, width {record.width:.2g}",
        x="eigenvalue",
        y="density (share of eigenvalues per unit)",
    )


@checked
def plot_block_eigenvalues(record: BlockEigenvalues, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The largest eigenvalue of each block and the magnitude of its smallest, on one logarithmic scale.

    Args:
        record: see :func:`resnet_paths.landscape.block_eigenvalues`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (max(6.0, 0.32 * len(record.names)), 4), **look)
    places = frame.places(record.names)
    negative = record.smallest < 0
    series = (
        (record.largest > 0, record.largest, "o", "largest"),
        (negative, -record.smallest, "v", "smallest, negative (magnitude)"),
        (~negative & (record.smallest > 0), record.smallest, "^", "smallest, positive"),
    )
    for number, (which, values, shape, text) in enumerate(series):
        if which.any():
            color = (lambda: frame.color, lambda: frame.second, lambda: frame.third)[number]()
            frame.ax.plot(places[which], values[which], shape, color=color, label=frame.series(text))
    frame.ax.set_yscale("log")
    flat = int((record.largest <= 0).sum())
    missing = f"; {flat} without a positive eigenvalue" if flat else ""
    title = f"{_MATRICES[record.kind]} by block, {record.samples} samples{missing}"
    return frame.done(title, x="block of parameters", y="eigenvalue of the block")


@checked
def plot_eigenvalue_ratio(
    surface: Surface,
    ax: Axes | None = None,
    *,
    norm: Normalize | None = None,
    path: np.ndarray | None = None,
    **look: Unpack[Look],
) -> Axes:
    """The map of ``|λmin / λmax|``, from 0 (nearly convex) to 1 by default; cells without a value are hatched.

    Args:
        surface: see :func:`resnet_paths.landscape.eigenvalue_surface`, over a plane.
        ax: draw here.
        norm: colour scale; by default, values above 1 have the colour of 1.
        path: (steps, 2) coordinates of a path to draw on top.
        **look: label, color, title and legend; see :class:`Look`.
    """
    finite = surface.values["ratio"][np.isfinite(surface.values["ratio"])] if "ratio" in surface.values else []
    largest = f", largest {np.max(finite):.3g}" if len(finite) else ""
    title = f"|λmin / λmax| of the Hessian; {literal(surface.source.name)}, {surface.images} images{largest}"
    if ax is None or not ax.get_title():
        look = {"title": title, **look}
    return plot_surface_heat(surface, "ratio", ax, norm=norm or Normalize(0, 1), path=path, **look)


@checked
def plot_trajectory(record: ProjectedTrajectory, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """A training run in the plane of two directions, over a surface if `ax` holds one, with explained variances.

    Args:
        record: see :func:`resnet_paths.landscape.project_trajectory`, of two or more directions (two are drawn).
        ax: draw here, such as on the contours of :func:`loss_surface` over ``record.directions``.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: a single direction.
    """
    if record.coordinates.shape[1] < 2:
        raise ValueError("expected a trajectory in two directions, got one; project it with count=2")
    frame = Frame(ax, (6, 5), **look)
    across, down = record.coordinates[:, 0], record.coordinates[:, 1]
    name = frame.label() or "_trajectory"
    frame.ax.plot(across, down, color=frame.color, marker=".", linewidth=thin(), label=name)
    frame.ax.plot(across[-1], down[-1], marker="*", color=frame.color, markersize=marker(2))
    for step in (0, len(record) - 1):
        frame.ax.annotate(
            literal(record.labels[step]),
            (across[step], down[step]),
            (marker(), marker()),
            textcoords="offset points",
            fontsize="small",
        )
    title = f"{len(record)} checkpoints, {100 * record.explained[:2].sum():.0f} % of their variance"
    return frame.done(title, x=_explained(record, 0), y=_explained(record, 1))


def _explained(record: ProjectedTrajectory, k: int) -> str:
    kind, share = record.directions[k].kind, record.explained[k]
    walk = f"; random walk {100 * record.random_walk[k]:.0f} %" if kind.startswith("principal") else ""
    return f"{kind} ({100 * share:.1f} % of variance{walk})"


@checked
def plot_trajectory_losses(record: TrajectoryLosses, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The true loss of each checkpoint and the loss at its projection onto the plane.

    Args:
        record: see :func:`resnet_paths.landscape.trajectory_losses`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (7, 4), **look)
    places = frame.places(record.labels)
    series = (
        (record.true, frame.color, "o-", "checkpoint"),
        (record.own_weights, frame.second, "s:", "own weights, last statistics"),
        (record.projected, frame.third, "^--", "projection onto the plane"),
    )
    for column, (values, color, style, text) in enumerate(series):
        errors = 1.96 * record.errors[:, column]
        frame.ax.errorbar(places, values, errors, fmt=style, color=color, markersize=marker(), label=frame.series(text))
    title = (
        f"True and projected loss; {literal(record.source.name)}, {record.images} images, bars: 1.96 standard errors"
    )
    return frame.done(title, x="checkpoint", y="loss")
