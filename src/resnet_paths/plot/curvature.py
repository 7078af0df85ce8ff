"""Plots of curvature and training trajectories: spectra, blocks, the eigenvalue ratio, trajectories."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from ..arguments import checked
from ..landscape import BlockEigenvalues, ProjectedTrajectory, SpectralDensity, Surface, TrajectoryLosses
from ._style import BLUE, GREEN, GREY, ORANGE, RED, axes, known_color, literal, literals
from .landscape import plot_surface_heat

_ONE = "height of a single eigenvalue"
_MATRICES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix"}


@checked
def plot_spectrum(record: SpectralDensity, ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """The density of eigenvalues on a logarithmic scale, with two standard errors over the probes.

    The dotted line is the height of a single eigenvalue: values far below it are tails of the smoothing.

    Args:
        record: see :func:`resnet_paths.landscape.spectral_density`.
        ax: draw here, for instance over another spectrum.
        label: legend label.
    """
    ax = axes(ax, (7, 4))
    one = 1 / (record.size * record.width * np.sqrt(2 * np.pi))
    floor = one / 100
    low, high = (np.maximum(record.density + sign * 2 * record.standard_error, floor) for sign in (-1, 1))
    (line,) = ax.plot(record.grid, np.maximum(record.density, floor), linewidth=1.2, label=label)
    ax.fill_between(record.grid, low, high, color=line.get_color(), alpha=0.25)
    known = {other.get_label() for other in ax.lines}  # of a spectrum that is there already
    ax.axhline(one, color=GREY, linestyle=":", linewidth=0.8, label=None if _ONE in known else _ONE)
    ax.set_yscale("log")
    ax.set_ylim(bottom=floor)
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density (share of eigenvalues per block)")
    ax.set_title(
        f"{_MATRICES[record.kind]} of {record.size:,} parameters, {record.samples} samples, {record.draws} probes of "
        f"{record.nodes.shape[1]} steps, width {record.width:.2g}",
        fontsize="medium",
    )
    ax.legend(fontsize="small")
    return ax


@checked
def plot_block_eigenvalues(record: BlockEigenvalues, ax: Axes | None = None) -> Axes:
    """The largest eigenvalue of each block and the magnitude of its smallest, on one logarithmic scale.

    Args:
        record: see :func:`resnet_paths.landscape.block_eigenvalues`.
        ax: draw here.
    """
    ax = axes(ax, (max(6.0, 0.32 * len(record.names)), 4))
    places = np.arange(len(record.names))
    negative = record.smallest < 0
    series = (
        (record.largest > 0, record.largest, BLUE, "o", "largest"),
        (negative, -record.smallest, RED, "v", "smallest, negative (magnitude)"),
        (~negative & (record.smallest > 0), record.smallest, ORANGE, "^", "smallest, positive"),
    )
    for chosen, values, color, marker, label in series:
        if chosen.any():
            ax.plot(places[chosen], values[chosen], marker, color=color, label=label)
    ax.set_yscale("log")
    ax.set_xticks(places, literals(record.names), rotation=90, fontsize="small")
    ax.set_xlabel("block of parameters")
    ax.set_ylabel("eigenvalue of the block")
    flat = int((record.largest <= 0).sum())
    missing = f"; {flat} without a positive eigenvalue" if flat else ""
    ax.set_title(f"{_MATRICES[record.kind]} by block, {record.samples} samples{missing}", fontsize="medium")
    ax.legend(fontsize="small")
    return ax


@checked
def plot_eigenvalue_ratio(
    surface: Surface, ax: Axes | None = None, *, norm: Normalize | None = None, path: np.ndarray | None = None
) -> Axes:
    """The map of ``|λmin / λmax|``, from 0 (nearly convex) to 1 by default; cells without a value are hatched.

    Args:
        surface: see :func:`resnet_paths.landscape.eigenvalue_surface`, over a plane.
        ax: draw here.
        norm: colour scale; by default, values above 1 have the colour of 1.
        path: (steps, 2) coordinates of a path to draw on top.
    """
    ax = plot_surface_heat(surface, "ratio", ax, norm=norm or Normalize(0, 1), path=path)
    finite = surface.values["ratio"][np.isfinite(surface.values["ratio"])]
    largest = f", largest {finite.max():.3g}" if len(finite) else ""
    ax.set_title(
        f"|λmin / λmax| of the Hessian; {literal(surface.source.name)}, {surface.images} images{largest}",
        fontsize="medium",
    )
    return ax


@checked
def plot_trajectory(record: ProjectedTrajectory, ax: Axes | None = None, *, color: str = RED) -> Axes:
    """A training run in the plane of two directions, over a surface if `ax` holds one, with explained variances.

    Args:
        record: see :func:`resnet_paths.landscape.project_trajectory`, of two or more directions (two are drawn).
        ax: draw here, such as on the contours of :func:`loss_surface` over ``record.directions``.
        color: of the path.

    Raises:
        ValueError: a single direction.
    """
    if record.coordinates.shape[1] < 2:
        raise ValueError("expected a trajectory in two directions, got one; project it with count=2")
    color = known_color(color)
    ax = axes(ax, (6, 5))
    across, down = record.coordinates[:, 0], record.coordinates[:, 1]
    ax.plot(across, down, color=color, marker=".", linewidth=1)
    ax.plot(across[-1], down[-1], marker="*", color=color, markersize=12)
    for place in (0, len(record) - 1):
        ax.annotate(
            literal(record.labels[place]),
            (across[place], down[place]),
            (4, 4),
            textcoords="offset points",
            fontsize="small",
        )
    ax.set_xlabel(_explained(record, 0))
    ax.set_ylabel(_explained(record, 1))
    if not ax.get_title():
        ax.set_title(
            f"{len(record)} checkpoints, {record.explained[:2].sum():.0%} of their variance", fontsize="medium"
        )
    return ax


def _explained(record: ProjectedTrajectory, k: int) -> str:
    kind, share = record.directions[k].kind, record.explained[k]
    walk = f"; random walk {record.random_walk[k]:.0%}" if kind.startswith("principal") else ""
    return f"{kind} ({share:.1%} of variance{walk})"


@checked
def plot_trajectory_losses(record: TrajectoryLosses, ax: Axes | None = None) -> Axes:
    """The true loss of each checkpoint and the loss at its projection onto the plane.

    Args:
        record: see :func:`resnet_paths.landscape.trajectory_losses`.
        ax: draw here.
    """
    ax = axes(ax, (7, 4))
    places = np.arange(len(record.labels))
    series = (
        (record.true, BLUE, "o-", "checkpoint"),
        (record.own_weights, GREEN, "s:", "own weights, last statistics"),
        (record.projected, ORANGE, "^--", "projection onto the plane"),
    )
    for column, (values, color, style, label) in enumerate(series):
        errors = 1.96 * record.errors[:, column]
        ax.errorbar(places, values, errors, fmt=style, color=color, markersize=4, capsize=2, label=label)
    ax.set_xticks(places, literals(record.labels))
    ax.set_xlabel("checkpoint")
    ax.set_ylabel("loss")
    title = (
        f"True and projected loss; {literal(record.source.name)}, {record.images} images, bars: 1.96 standard errors"
    )
    ax.set_title(title, fontsize="medium")
    ax.legend(fontsize="small")
    return ax
