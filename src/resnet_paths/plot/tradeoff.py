"""Plots of accuracy against latency."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..arguments import checked
from ..tradeoff import DropPlan
from ._axes import metric_axis, percent_axis
from ._style import BLUE, GREY, ORANGE, RED, axes


@checked
def plot_plan(plan: DropPlan, ax: Axes | None = None) -> Axes:
    """Accuracy against latency as blocks are dropped, with and without repair, and the chosen point.

    Without labels: the share of images with the same answer as from the full network.
    """
    ax = axes(ax, (7, 4))
    latency = 1e3 * np.array([point.latency for point in plan.points])
    labelled = not np.isnan(plan.points[0].accuracy)
    accuracy = np.array([point.plain if labelled else 1 - point.disagreement for point in plan.points])
    what = "as dropped" if labelled else "as repaired"
    ax.plot(latency, accuracy, "o", color=BLUE, markersize=4, label=f"{what} (number: blocks dropped)")
    ax.plot(latency, accuracy, color=BLUE, alpha=0.4, linewidth=1)
    point = plan.points[plan.chosen]
    if labelled and any(other.repair != "none" for other in plan.points):
        repaired = np.array([other.accuracy for other in plan.points])
        ends = np.array([other.accuracy_interval for other in plan.points])
        errors = np.abs(ends.T - repaired)
        ax.errorbar(latency, repaired, errors, fmt="s", color=ORANGE, markersize=4, capsize=2, label="repaired")
        ax.plot(latency, repaired, color=ORANGE, alpha=0.4, linewidth=1)
    label = f"chosen: {len(point.dropped)} dropped"
    height = point.accuracy if labelled else 1 - point.disagreement
    ax.plot(1e3 * point.latency, height, "*", color=RED, markersize=14, label=label)
    if plan.finetuned is not None:
        tuned = plan.finetuned
        height = tuned.accuracy if labelled else 1 - tuned.disagreement
        ax.plot(1e3 * tuned.latency, height, "^", color=RED, markersize=8, label="fine-tuned")
    ax.axhline(
        plan.points[0].accuracy if labelled else 1.0, color=GREY, linewidth=0.8, linestyle=":", label="full model"
    )
    for place in _apart(latency, accuracy):
        ax.annotate(str(len(plan.points[place].dropped)), (latency[place], accuracy[place]), (0, -12),
                    textcoords="offset points", fontsize="x-small", color=GREY, ha="center")  # fmt: skip
    ax.set_xlabel(f"latency (ms, batch {plan.clock.batch})")
    ax.set_ylabel("accuracy" if labelled else "same answer as the full network")
    percent_axis(ax)
    ax.set_title(f"Blocks dropped by {_search(plan)} search", fontsize="medium")
    ax.legend(fontsize="small")
    return ax


def _search(plan: DropPlan) -> str:
    return type(plan.search).__name__.lower()


def _apart(x: np.ndarray, y: np.ndarray, room: float = 0.04) -> list[int]:
    """Points whose labels do not overlap: the first, the last, and those with enough distance to the previous one."""
    across, down = (np.ptp(values) or 1.0 for values in (x, y))
    kept: list[int] = []
    for place in dict.fromkeys([0, len(x) - 1, *range(len(x))]):
        far = [max(abs(x[place] - x[k]) / across, abs(y[place] - y[k]) / down) >= room for k in kept]
        if all(far):
            kept.append(place)
    return sorted(kept)


@checked
def plot_search(plan: DropPlan, ax: Axes | None = None) -> Axes:
    """The search's objective against the number of dropped blocks, with greedy and random sets of the same size.

    Raises:
        ValueError: the plan drew no random sets; search with random_sets.
    """
    if not plan.random_losses:
        raise ValueError("expected a plan with random sets, got one without; search with Greedy(random_sets=20)")
    ax = axes(ax, (6, 4))
    counts = [len(point.dropped) for point in plan.points]
    drawn = np.array(plan.random_losses)
    low, middle, high = np.quantile(drawn, (0.0, 0.5, 1.0), axis=1)
    ax.fill_between(counts, low, high, color=GREY, alpha=0.3, label=f"{drawn.shape[1]} random sets, all of them")
    ax.plot(counts, middle, color=GREY, label="random sets, median")
    if plan.greedy_losses:
        ax.plot(counts, plan.greedy_losses, "--", color=ORANGE, label="greedy search")
    ax.plot(counts, plan.search_losses, "o-", color=BLUE, markersize=4, label=f"{_search(plan)} search")
    ax.set_xlabel("blocks dropped")
    ax.set_yscale("log")
    metric_axis(ax, plan.metric, "{}, search images")
    ax.legend(fontsize="small")
    return ax
