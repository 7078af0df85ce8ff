"""Plots of training runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from matplotlib.axes import Axes

from ..arguments import checked
from ._frame import Frame, Look
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
