"""Plots of accuracy against latency."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from matplotlib.axes import Axes

from ..arguments import checked
from ..data.metrics import is_share
from ..tradeoff import DropPlan, PlanPoint
from ._axes import metric_label
from ._fitting import letter_size
from ._frame import Frame, Look, marker, thin
from ._style import ink


@checked
def plot_plan(plan: DropPlan, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """Accuracy against latency as blocks are dropped, with and without repair, and the chosen point.

    For a plan by another metric: that metric. For images without labels it is the disagreement with the full network.

    Args:
        plan: see :func:`resnet_paths.tradeoff.plan_drop`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (7, 4), **look)
    latency = 1e3 * np.array([point.latency for point in plan.points])
    metric = plan.points[0].metric

    def reached(point: PlanPoint) -> float:
        return (point.value or 0.0) if metric else point.accuracy

    accuracy = np.array([reached(point) if metric else point.plain for point in plan.points])
    what = "as repaired" if metric else "as dropped"
    name = frame.label(f"{what} (number: blocks dropped)")
    frame.ax.plot(latency, accuracy, "o", color=frame.color, markersize=marker(), label=name)
    frame.ax.plot(latency, accuracy, color=frame.color, alpha=0.4, linewidth=thin())
    point = plan.points[plan.chosen]
    if not metric and any(other.repair != "none" for other in plan.points):
        repaired = np.array([other.accuracy for other in plan.points])
        ends = np.array([other.accuracy_interval for other in plan.points])
        errors = np.abs(ends.T - repaired)
        frame.ax.errorbar(
            latency, repaired, errors, fmt="s", color=frame.second, markersize=marker(), label=frame.detail("repaired")
        )
        frame.ax.plot(latency, repaired, color=frame.second, alpha=0.4, linewidth=thin())
    label = frame.detail(f"chosen: {len(point.dropped)} dropped")
    frame.ax.plot(1e3 * point.latency, reached(point), "*", color=frame.third, markersize=marker(2), label=label)
    if plan.finetuned is not None:
        tuned = plan.finetuned
        label = frame.detail("fine-tuned")
        frame.ax.plot(1e3 * tuned.latency, reached(tuned), "^", color=frame.third, markersize=marker(1.3), label=label)
    full = reached(plan.points[0])
    frame.ax.axhline(full, color=ink(0.7), linewidth=thin(), linestyle=":", label=frame.detail("full model"))
    for index in _apart(latency, accuracy):
        frame.ax.annotate(str(len(plan.points[index].dropped)), (latency[index], accuracy[index]),
                          (0, -1.2 * letter_size()), textcoords="offset points", fontsize="x-small", color=ink(0.7),
                          ha="center")  # fmt: skip
    return frame.done(
        f"Blocks dropped by {_search(plan)} search",
        x=f"latency (ms, batch {plan.clock.batch})",
        y=metric_label(metric) if metric else "accuracy",
        percent=not metric or is_share(metric),
    )


def _search(plan: DropPlan) -> str:
    return type(plan.search).__name__.lower()


def _apart(x: np.ndarray, y: np.ndarray, room: float = 0.04) -> list[int]:
    """Points whose labels do not overlap: the first, the last, and those with enough distance to the previous one."""
    across, down = (np.ptp(values) or 1.0 for values in (x, y))
    kept: list[int] = []
    for index in dict.fromkeys([0, len(x) - 1, *range(len(x))]):
        far = [max(abs(x[index] - x[k]) / across, abs(y[index] - y[k]) / down) >= room for k in kept]
        if all(far):
            kept.append(index)
    return sorted(kept)


@checked
def plot_search(plan: DropPlan, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The search's objective against the number of dropped blocks, with greedy and random sets of the same size.

    Args:
        plan: see :func:`resnet_paths.tradeoff.plan_drop`, of a search with random sets.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: the plan drew no random sets; search with random_sets.
    """
    if not plan.random_losses:
        raise ValueError("expected a plan with random sets, got one without; search with Greedy(random_sets=20)")
    frame = Frame(ax, (6, 4), **look)
    counts = [len(point.dropped) for point in plan.points]
    drawn = np.array(plan.random_losses)
    low, middle, high = np.quantile(drawn, (0.0, 0.5, 1.0), axis=1)
    random = frame.color if frame.is_one_of_several else ink(0.7)
    frame.ax.fill_between(
        counts, low, high, color=random, alpha=0.2, linewidth=0,
        label=frame.detail(f"{drawn.shape[1]} random sets, all of them"),
    )  # fmt: skip
    frame.ax.plot(counts, middle, ":", color=random, label=frame.detail("random sets, median"))
    if plan.greedy_losses:
        frame.ax.plot(counts, plan.greedy_losses, "--", color=frame.second, label=frame.detail("greedy search"))
    name = frame.label(f"{_search(plan)} search")
    frame.ax.plot(counts, plan.search_losses, "o-", color=frame.color, markersize=marker(), label=name)
    frame.ax.set_yscale("log")
    metric = f"{metric_label(plan.metric)}, search {plan.images['search'].nouns}"
    return frame.done(x="blocks dropped", y=metric, percent=is_share(plan.metric))
