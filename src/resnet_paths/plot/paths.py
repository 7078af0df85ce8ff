"""Plots of path lengths, and of the gradient and logits by path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..arguments import checked
from ..paths import (
    BlockContributions,
    EffectivePaths,
    GradientByLength,
    LengthDistribution,
    LogitLens,
)
from ..paths.lengths import distribution_of
from ._axes import block_axis, percent_axis
from ._style import BLUE, GREEN, GREY, ORANGE, axes, literals


@checked
def plot_path_lengths(record: LengthDistribution, ax: Axes | None = None, mass: float = 0.95) -> Axes:
    """The share of all paths of each length; the central range that holds `mass` of them is highlighted.

    Args:
        record: see :func:`resnet_paths.paths.path_lengths`.
        ax: draw here.
        mass: share of the paths in the highlighted range.

    Example:
        >>> from resnet_paths.paths import path_lengths
        >>> plot_path_lengths(path_lengths(54)).get_xlabel()
        'path length (branches passed)'
    """
    ax = axes(ax, (5, 4))
    low, high = record.interval(mass)
    inside = (record.lengths >= low) & (record.lengths <= high)
    label = f"length {low} to {high}: {100 * record.share(low, high):.1f} % of the paths"
    ax.bar(record.lengths[inside], record.probability[inside], color=BLUE, width=1.0, label=label)
    ax.bar(record.lengths[~inside], record.probability[~inside], color=GREY, width=1.0, label="other lengths")
    percent_axis(ax)
    _name(ax, "share of all paths", f"Path lengths of {record.n} blocks")
    ax.legend(fontsize="small")
    return ax


@checked
def plot_path_norms(record: EffectivePaths, ax: Axes | None = None) -> Axes:
    """The gradient norm of one path by length, on a log scale, with its standard error and decay.

    Args:
        record: see :func:`resnet_paths.paths.effective_paths`.
        ax: draw here.
    """
    ax = axes(ax, (5, 4))
    seen = record.norm > 0
    ax.errorbar(
        record.lengths[seen], record.norm[seen], record.standard_error[seen], fmt="o", markersize=3, color=BLUE,
        capsize=2, label="one path (bars: standard error)",
    )  # fmt: skip
    if np.isfinite(record.decay):
        logs = np.log(record.norm[seen])
        offset = logs.mean() - np.log(record.decay) * record.lengths[seen].mean()
        fitted = np.exp(offset + np.log(record.decay) * record.lengths)
        label = f"{record.decay:.2g} times per branch (R² {record.decay_fit:.2f})"
        ax.plot(record.lengths, fitted, color=ORANGE, linestyle="--", label=label)
    ax.set_yscale("log")
    _name(ax, "gradient norm at the input", record.kind)
    ax.legend(fontsize="small")
    return ax


@checked
def plot_gradient_by_length(record: GradientByLength, ax: Axes | None = None) -> Axes:
    """The norm of the gradient by length (summed over its paths) and of the ordinary gradient, log scale.

    The line is the median over the examples, the band their range.

    Args:
        record: see :func:`resnet_paths.paths.gradient_by_length`.
        ax: draw here.
    """
    ax = axes(ax, (5, 4))
    lengths, norms = record.lengths.numpy(), record.norms.double().cpu().numpy()
    some = (norms > 0).any(1)
    low = np.where(norms[some] > 0, norms[some], np.inf).min(1)  # a norm of 0 has no place on this scale
    ax.fill_between(lengths[some], low, norms[some].max(1), color=BLUE, alpha=0.2, label="range of the examples")
    ax.plot(lengths[some], np.median(norms[some], 1), color=BLUE, marker="o", markersize=3, label="median")
    total = float(np.median(record.total_norm.double().cpu().numpy()))
    ax.axhline(total, color=GREY, linestyle="--", label="whole gradient, lengths summed (median)")
    ax.set_yscale("log")
    _name(ax, f"gradient norm at {record.at}", "Sum over all paths of each length")
    ax.legend(fontsize="small")
    return ax


@checked
def plot_gradient_share(record: GradientByLength, ax: Axes | None = None) -> Axes:
    """The share of each length in the gradient, and the running sum from the shortest; means over the examples.

    The shares sum to one; examples whose gradient is zero have none and are left out. A negative share is a length
    whose part opposes the whole gradient.

    Args:
        record: see :func:`resnet_paths.paths.gradient_by_length`.
        ax: draw here.
    """
    ax = axes(ax, (5, 4))
    share = record.share.double().cpu().numpy()
    share = share[:, np.isfinite(share).all(0)].mean(1)  # an example without a gradient has no shares
    lengths = record.lengths.numpy()
    ax.bar(lengths, share, color=BLUE, width=0.8, label="paths of this length")
    ax.step(lengths, np.cumsum(share), where="mid", color=ORANGE, label="paths up to this length")
    ax.axhline(0, color=GREY, linewidth=0.8)
    percent_axis(ax)
    _name(ax, "share of the gradient", "Sum over all paths of each length")
    ax.legend(fontsize="small")
    return ax


@checked
def plot_effective_lengths(record: EffectivePaths, ax: Axes | None = None) -> Axes:
    """The share of each length in the gradient (number of paths times norm of one) and in the paths.

    Args:
        record: see :func:`resnet_paths.paths.effective_paths`.
        ax: draw here.
    """
    ax = axes(ax, (5, 4))
    inside = (record.lengths >= record.low) & (record.lengths <= record.high)
    carried = f"{100 * record.mass:.0f} % of the gradient, {100 * record.path_share:.2g} % of the paths"
    label = f"length {record.low} to {record.high}: {carried}"
    ax.bar(record.lengths[inside], record.share[inside], color=BLUE, width=1.0, label=label)
    ax.bar(
        record.lengths[~inside], record.share[~inside], color=GREY, width=1.0, label="other lengths, of the gradient"
    )
    ax.plot(record.lengths, record.count_share, color=ORANGE, linestyle="--", label="number of paths")
    percent_axis(ax)
    _name(ax, "share", "Number of paths times norm of one")
    ax.legend(fontsize="small")
    return ax


@checked
def plot_effective_paths(record: EffectivePaths, axs: Sequence[Axes] | None = None) -> list[Axes]:
    """Figure 6 of Veit, Wilber and Belongie (2016): lengths of all paths, norm of one, and their product.

    Args:
        record: see :func:`resnet_paths.paths.effective_paths`.
        axs: three axes to draw on.

    Raises:
        ValueError: not three axes.
    """
    if axs is None:
        axs = list(Figure(figsize=(14, 4), layout="constrained").subplots(1, 3))
    if len(axs) != 3:
        raise ValueError(f"expected three axes, got {len(axs)}")
    plot_path_lengths(distribution_of(record.n, record.counts), axs[0], record.mass)
    plot_path_norms(record, axs[1])
    plot_effective_lengths(record, axs[2])
    return list(axs)


@checked
def plot_block_contributions(record: BlockContributions, ax: Axes | None = None) -> Axes:
    """Direct contributions of each block to the target's logit, blocks by examples.

    Args:
        record: see :func:`resnet_paths.paths.block_contributions`, made with targets.
        ax: draw here.

    Raises:
        ValueError: the record was made without targets.
    """
    if record.of_target is None:
        raise ValueError("expected contributions to a target, got none; pass target to block_contributions")
    ax = axes(ax, (max(5.0, 0.2 * record.of_target.shape[1]), max(4.0, 0.22 * len(record.sources))))
    values = record.of_target.double().cpu().numpy()
    extent = float(np.abs(values).max()) or 1.0
    image = ax.imshow(values, cmap="PuOr_r", vmin=-extent, vmax=extent, aspect="auto", interpolation="nearest")
    ax.set_yticks(np.arange(len(record.sources)), literals(record.sources), fontsize="x-small")
    ax.set_xlabel("example")
    ax.set_ylabel("source")
    ax.set_title("Direct contribution to the target's logit", fontsize="medium")
    figure = ax.get_figure()
    if figure is not None:
        figure.colorbar(image, ax=ax, label="logit")
    return ax


@checked
def plot_logit_lens(record: LogitLens, target: torch.Tensor, ax: Axes | None = None) -> Axes:
    """The target's probability read from the stream after each block, for every example and on average.

    Args:
        record: see :func:`resnet_paths.paths.logit_lens`.
        target: class indices (batch,).
        ax: draw here.
    """
    accuracy = record.accuracy(target).cpu()  # checks the target too
    ax = axes(ax, (max(6.0, 0.32 * len(record.blocks)), 4))
    probability = record.probabilities.double().cpu()
    chosen = probability[:, torch.arange(len(target), device="cpu"), target.cpu()].numpy()
    places = np.arange(len(record.blocks))
    lines = ax.plot(places, chosen, color=BLUE, alpha=0.15, linewidth=0.8)
    lines[0].set_label("probability of the target, one example")
    ax.plot(places, chosen.mean(1), color=BLUE, linewidth=2, label="mean probability of the target")
    ax.plot(places, accuracy, color=GREEN, linestyle="--", label="accuracy")
    block_axis(ax, record.blocks)
    ax.set_ylim(-0.02, 1.02)
    percent_axis(ax)
    ax.set_xlabel("read after block, carried to the head by shortcuts")
    ax.set_ylabel("probability, accuracy")
    ax.set_title("Logit lens", fontsize="medium")
    ax.legend(fontsize="small")
    return ax


def _name(ax: Axes, y: str, title: str) -> None:
    ax.set_xlabel("path length (branches passed)")
    ax.set_ylabel(y)
    ax.set_title(title, fontsize="medium")
