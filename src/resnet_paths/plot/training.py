"""Plots of training runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from ..arguments import checked
from ._style import BLUE, GREY, ORANGE, axes


@checked
def plot_training(rows: Sequence[dict[str, float]], ax: Axes | None = None) -> Axes:
    """Errors (left axis) and loss (right axis) after each epoch.

    Args:
        rows: as returned by :func:`resnet_paths.training.train`.
        ax: draw here.

    Raises:
        ValueError: no epochs.

    Example:
        >>> rows = [{"epoch": 0, "loss": 2.0, "train_error": 0.8}, {"epoch": 1, "loss": 1.0, "train_error": 0.3}]
        >>> plot_training(rows).get_ylabel()
        'error (share of images)'
    """
    if not rows:
        raise ValueError("expected the numbers of at least one epoch, got none")
    ax = axes(ax, (7, 4))
    trained = [row["epoch"] + 1 for row in rows]
    for name, color, label in (("train_error", BLUE, "training error"), ("test_error", ORANGE, "test error")):
        if all(name in row for row in rows):
            ax.plot(trained, [row[name] for row in rows], color=color, label=label)
    ax.set_xlabel("epochs")
    ax.set_ylabel("error (share of images)")
    ax.set_ylim(0, 1)

    beside = ax.twinx()
    beside.plot(trained, [row["loss"] for row in rows], color=GREY, linestyle=":", label="training loss")
    beside.set_ylabel("loss (nats)")
    beside.set_ylim(bottom=0)
    lines = [*ax.get_lines(), *beside.get_lines()]
    ax.legend(lines, [str(line.get_label()) for line in lines], fontsize="small")
    return ax
