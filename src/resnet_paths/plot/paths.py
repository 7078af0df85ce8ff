"""Plots of path lengths, and of the gradient and logits by path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from matplotlib.axes import Axes

from ..arguments import checked
from ..nouns import counted
from ..paths import (
    BlockContributions,
    EffectivePaths,
    GradientByLength,
    LengthDistribution,
    LogitLens,
)
from ..paths.lengths import distribution_of
from ._frame import Frame, Look, figure_title, given_axes, marker, thin
from ._style import ink, signed_shades

_LENGTH = "path length (branches passed)"


@checked
def plot_path_lengths(
    record: LengthDistribution, ax: Axes | None = None, mass: float = 0.95, **look: Unpack[Look]
) -> Axes:
    """The share of all paths of each length; the central range that holds `mass` of them is highlighted.

    Args:
        record: see :func:`resnet_paths.paths.path_lengths`.
        ax: draw here.
        mass: share of the paths in the highlighted range.
        **look: label, color, title and legend; see :class:`Look`.

    Example:
        >>> from resnet_paths.paths import path_lengths
        >>> plot_path_lengths(path_lengths(54)).get_xlabel()
        'path length (branches passed)'
    """
    frame = Frame(ax, (5, 4), **look)
    low, high = record.interval(mass)
    inside = (record.lengths >= low) & (record.lengths <= high)
    name = frame.label(f"length {low} to {high}: {100 * record.share(low, high):.1f} % of the paths")
    _length_bars(frame, record.lengths, record.probability, inside, name)
    return frame.done(f"Path lengths of {counted(record.n, 'block')}", x=_LENGTH, y="share of all paths", percent=True)


def _length_bars(
    frame: Frame,
    lengths: np.ndarray,
    heights: np.ndarray,
    inside: np.ndarray,
    name: str | None,
    others: str = "other lengths",
) -> None:
    """Bars, those inside a range highlighted; see-through where another record may stand behind them."""
    alpha = 0.5 if frame.is_one_of_several else None
    frame.ax.bar(lengths[inside], heights[inside], color=frame.color, alpha=alpha, width=1.0, label=name)
    rest = frame.color if frame.is_one_of_several else ink(0.5)
    faint = 0.25 if frame.is_one_of_several else None
    name = frame.detail(others) if (~inside).any() else None
    frame.ax.bar(lengths[~inside], heights[~inside], color=rest, alpha=faint, width=1.0, label=name)


@checked
def plot_path_norms(record: EffectivePaths, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The gradient norm of one path by length, on a log scale, with its standard error and decay.

    Args:
        record: see :func:`resnet_paths.paths.effective_paths`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (5, 4), **look)
    seen = record.norm > 0
    frame.ax.errorbar(
        record.lengths[seen], record.norm[seen], record.standard_error[seen], fmt="o", markersize=marker(),
        color=frame.color, label=frame.label("one path (bars: standard error)"),
    )  # fmt: skip
    if np.isfinite(record.decay):
        logs = np.log(record.norm[seen])
        offset = logs.mean() - np.log(record.decay) * record.lengths[seen].mean()
        fitted = np.exp(offset + np.log(record.decay) * record.lengths)
        label = frame.detail(f"{record.decay:.2g} times per branch (R² {record.decay_fit:.2f})")
        frame.ax.plot(record.lengths, fitted, color=frame.second, linestyle="--", label=label)
    frame.ax.set_yscale("log")
    return frame.done(record.kind, x=_LENGTH, y="gradient norm at the input")


@checked
def plot_gradient_by_length(record: GradientByLength, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The norm of the gradient by length (summed over its paths) and of the ordinary gradient, log scale.

    The line is the median over the examples, the band their range.

    Args:
        record: see :func:`resnet_paths.paths.gradient_by_length`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: no norm is above zero.
    """
    lengths, norms = record.lengths.numpy(), record.norms.double().cpu().numpy()
    some = (norms > 0).any(1)
    if not some.any():
        raise ValueError("expected norms above zero for a logarithmic scale, got none; the gradient is zero or NaN")
    frame = Frame(ax, (5, 4), **look)
    low = np.where(norms[some] > 0, norms[some], np.inf).min(1)  # a logarithmic scale cannot show a norm of 0
    name = frame.detail("range of the examples")
    frame.ax.fill_between(lengths[some], low, norms[some].max(1), color=frame.color, alpha=0.2, linewidth=0, label=name)
    name, median = frame.label("median"), np.median(norms[some], 1)
    frame.ax.plot(lengths[some], median, color=frame.color, marker="o", markersize=marker(), label=name)
    total = float(np.median(record.total_norm.double().cpu().numpy()))
    whole = frame.detail("full gradient, lengths summed (median)")
    ordinary = frame.color if frame.is_one_of_several else ink(0.7)
    frame.ax.axhline(total, color=ordinary, linestyle="--", label=whole)
    frame.ax.set_yscale("log")
    return frame.done("Sum over all paths of each length", x=_LENGTH, y=f"gradient norm at {record.at}")


@checked
def plot_gradient_share(record: GradientByLength, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The share of each length in the gradient, and the running sum from the shortest; means over the examples.

    The shares sum to one; examples whose gradient is zero have none and are left out. A negative share is a length
    whose part opposes the full gradient.

    Args:
        record: see :func:`resnet_paths.paths.gradient_by_length`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: no example has a gradient.
    """
    share = record.share.double().cpu().numpy()
    share = share[:, np.isfinite(share).all(0)]  # an example without a gradient has no shares
    if not share.shape[1]:
        raise ValueError("expected an example with a gradient, got none; each gradient is zero or NaN")
    share = share.mean(1)
    frame = Frame(ax, (5, 4), **look)
    lengths = record.lengths.numpy()
    alpha = 0.5 if frame.is_one_of_several else None
    name = frame.label("paths of this length")
    frame.ax.bar(lengths, share, color=frame.color, alpha=alpha, width=0.8, label=name)
    name = frame.detail("paths up to this length")
    frame.ax.step(lengths, np.cumsum(share), where="mid", color=frame.second, label=name)
    frame.zero()
    return frame.done("Sum over all paths of each length", x=_LENGTH, y="share of the gradient", percent=True)


@checked
def plot_effective_lengths(record: EffectivePaths, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The share of each length in the gradient (number of paths times norm of one) and in the paths.

    Args:
        record: see :func:`resnet_paths.paths.effective_paths`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (5, 4), **look)
    inside = (record.lengths >= record.low) & (record.lengths <= record.high)
    carried = f"{100 * record.mass:.0f} % of the gradient, {100 * record.path_share:.3g} % of the paths"
    name = frame.label(f"length {record.low} to {record.high}: {carried}")
    _length_bars(frame, record.lengths, record.share, inside, name, "other lengths, of the gradient")
    paths = frame.detail("number of paths")
    frame.ax.plot(record.lengths, record.count_share, color=frame.second, linestyle="--", label=paths)
    return frame.done("Number of paths times norm of one", x=_LENGTH, y="share", percent=True)


@checked
def plot_effective_paths(record: EffectivePaths, ax: Sequence[Axes] | None = None, **look: Unpack[Look]) -> list[Axes]:
    """Figure 6 of Veit, Wilber and Belongie (2016): lengths of all paths, norm of one, and their product.

    Args:
        record: see :func:`resnet_paths.paths.effective_paths`.
        ax: three axes to draw on.
        **look: label, color, title (of the figure) and legend; see :class:`Look`.

    Raises:
        ValueError: not three axes.
    """
    axes, look = _panels(ax, 3, (14, 4), look)
    plot_path_lengths(distribution_of(record.n, record.counts), axes[0], record.mass, **look)
    plot_path_norms(record, axes[1], **look)
    plot_effective_lengths(record, axes[2], **look)
    return axes


def _panels(ax: Sequence[Axes] | None, count: int, size: tuple[float, float], look: Look) -> tuple[list[Axes], Look]:
    """Several axes, and the look of each; a title is then that of the figure."""
    axes = given_axes(ax, count, size)
    if look.get("title"):
        figure_title(axes[0], str(look["title"]))
        look = {**look}
        del look["title"]
    return axes, look


@checked
def plot_block_contributions(record: BlockContributions, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """Direct contributions of each block to the target's logit, blocks by examples.

    Args:
        record: see :func:`resnet_paths.paths.block_contributions`, made with targets.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: the record was made without targets.
    """
    if record.of_target is None:
        raise ValueError("expected contributions to a target, got none; pass target to block_contributions")
    size = (max(5.0, 0.2 * record.of_target.shape[1]), max(4.0, 0.22 * len(record.sources)))
    frame = Frame(ax, size, **look)
    values = record.of_target.double().cpu().numpy()
    extent = float(np.abs(values).max()) or 1.0
    colors = signed_shades(look.get("color"))
    cells = frame.ax.imshow(values, cmap=colors, vmin=-extent, vmax=extent, aspect="auto", interpolation="nearest")
    frame.places(record.sources, down=True)
    frame.bar(cells, "logit")
    return frame.done("Direct contribution to the target's logit", x="example", y="source")


@checked
def plot_logit_lens(
    record: LogitLens, target: torch.Tensor | None = None, ax: Axes | None = None, **look: Unpack[Look]
) -> Axes:
    """The target's probability read from the stream after each block, for every example and on average.

    Args:
        record: see :func:`resnet_paths.paths.logit_lens`.
        target: class indices (batch,); None: the network's own prediction.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: the outputs are not scores of several classes, (batch, classes).
    """
    what = "target" if target is not None else "final prediction"
    target = record.logits[-1].argmax(-1) if target is None else target
    accuracy = record.accuracy(target).cpu()  # checks the target too
    frame = Frame(ax, (max(6.0, 0.32 * len(record.blocks)), 4), **look)
    if record.probabilities is None:
        raise ValueError("expected scores of several classes, got one output per example; plot its logits yourself")
    probability = record.probabilities.double().cpu()
    of_target = probability[:, torch.arange(len(target), device="cpu"), target.cpu()].numpy()
    places = frame.places(record.blocks)
    lines = frame.ax.plot(places, of_target, color=frame.color, alpha=0.15, linewidth=thin())
    lines[0].set_label(frame.detail(f"probability of the {what}, one example") or "_example")
    name = frame.label(f"mean probability of the {what}")
    frame.ax.plot(places, of_target.mean(1), color=frame.color, linewidth=thin(1.3), label=name)
    name = frame.detail("accuracy" if what == "target" else "same prediction")
    frame.ax.plot(places, accuracy, color=frame.second, linestyle="--", label=name)
    frame.ax.set_ylim(-0.02, 1.02)
    return frame.done(
        "Logit lens", x="read after block, carried to the head by shortcuts", y="probability, share", percent=True
    )
