"""Plots of training runs, and of the paths at one moment of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from matplotlib.axes import Axes

from ..arguments import checked
from ..callbacks import PathStatistics
from ._frame import Frame, Look, marker
from ._style import ink

_LOSS = "the axis of the loss"


@checked
def plot_training(rows: Sequence[dict[str, float]], ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """Errors (left axis) and loss (right axis) after each epoch.

    Args:
        rows: as returned by :func:`resnet_paths.training.train`.
        ax: draw here, perhaps over another run.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: no epochs.

    Example:
        >>> rows = [{"epoch": 0, "loss": 2.0, "train_error": 0.8}, {"epoch": 1, "loss": 1.0, "train_error": 0.3}]
        >>> plot_training(rows).get_ylabel()
        'error'
    """
    if not rows:
        raise ValueError("expected the numbers of at least one epoch, got none")
    frame = Frame(ax, (7, 4), **look)
    trained = [row["epoch"] + 1 for row in rows]
    for name, style, label in (("train_error", "-", "training error"), ("test_error", "--", "test error")):
        if all(name in row for row in rows):
            color = frame.color if name == "train_error" else frame.second
            frame.ax.plot(trained, [row[name] for row in rows], style, color=color, label=frame.series(label))
    frame.ax.set_ylim(0, 1)

    beside = next((other for other in frame.ax.figure.axes if other.get_label() == _LOSS), None)
    if beside is None or not beside.get_shared_x_axes().joined(beside, frame.ax):
        beside = frame.ax.twinx()
        beside.set_label(_LOSS)
    color = frame.color if frame.is_one_of_several else ink(0.7)
    beside.plot(trained, [row["loss"] for row in rows], ":", color=color, label=frame.series("training loss"))
    beside.set_ylabel("loss (nats)")
    beside.set_ylim(bottom=0, auto=None)
    return frame.done(x="epochs", y="error", percent=True, beside=[beside])


@checked
def plot_path_statistics(record: PathStatistics, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The share of each path length in the gradient at one step, and the mean length: steps side by side with labels.

    Args:
        record: see :func:`resnet_paths.callbacks.path_statistics`.
        ax: draw here, perhaps over another step.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (5, 4), **look)
    lengths = np.arange(len(record.share))
    name = frame.label("share of the gradient")
    frame.ax.plot(lengths, record.share, "o-", color=frame.color, markersize=marker(), label=name)
    name = frame.detail(f"mean length ({record.mean_length:.1f})")
    frame.ax.axvline(record.mean_length, color=frame.color, linestyle=":", label=name)
    frame.zero()
    title = f"Gradient by path length at step {record.step:,}"
    return frame.done(title, x="path length (branches passed)", y="share of the gradient", percent=True)
