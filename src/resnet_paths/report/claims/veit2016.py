"""Veit, Wilber and Belongie (2016), Residual Networks Behave Like Ensembles of Relatively Shallow Networks."""

from __future__ import annotations

import numpy as np

from ...lesion import RandomDeletions, Reorderings, SingleDeletions, single_deletions
from ...network import plain_layers, unroll
from ...nouns import counted
from ...paths import EffectivePaths, path_lengths
from ...surgery import drop_blocks
from ..words import listed, number, percent, points
from .claim import Claim, Measured, Paper
from .comparison import not_learnt
from .evidence import Evidence
from .rules import above, every, most, rank_first, rises_smoothly


def path_count() -> Measured:
    """The share of short paths among all of 54 blocks."""
    share = path_lengths(54).share(5, 17)
    return Measured(f"{share:.4%} of the 2^54 paths", abs(share - 0.0045) < 5e-5, {"share": share})


def middle_lengths() -> Measured:
    """The share of paths of middle length."""
    share = path_lengths(54).share(19, 35)
    return Measured(f"{percent(share)} of the 2^54 paths", share > 0.95, {"share": share})


def _halving(evidence: Evidence) -> Measured:
    droppable = [block.index for block in evidence.net if block.droppable]
    if not droppable:
        return Measured("no block of this network can be dropped", None)
    x, _ = evidence.subject.batch(2)
    left = unroll(drop_blocks(evidence.net, droppable[:1]), x)
    before, after = path_lengths(evidence.net).paths, path_lengths(left).paths
    return Measured(f"{before:,} paths before, {after:,} after dropping one block", 2 * after == before)


def single_deletion(record: SingleDeletions, chance: float) -> Measured:
    """Whether most blocks cost little, and none leads to the error of chance."""
    small = float((record.damage <= 0.05).mean())
    text = (
        f"median {points(float(np.median(record.damage)))}; {percent(small)} of the blocks cost at most 5 points; "
        f"worst {percent(float(record.values.max()))} (chance {percent(chance)})"
    )
    ruinous = 0.95 * chance
    low, high = float(record.low.max()), float(record.high.max())
    none_ruins = False if low > ruinous else None if high >= ruinous else True
    holds = every(most(*record.damage_interval(), 0.05), none_ruins)
    return Measured(text, holds, {"median_damage": float(np.median(record.damage)), "share_small": small})


def _plain_deletion(evidence: Evidence) -> Measured:
    """How much of the way from its own error to chance a plain network loses with one layer, per training run."""
    data, chance = evidence.subject.images(200), evidence.subject.chance
    x = data.subset(slice(0, 2)).x
    plain, residual = (
        [
            single_deletions(cut(run.model, x), data, progress=False)
            for run in evidence.several_trained(14, epochs=12, **kind)
        ]
        for cut, kind in ((plain_layers, {"residual": False}), (unroll, {}))
    )
    error = np.array([record.full for record in plain])
    lost = np.array([float(np.median(record.damage)) for record in plain])
    kept = float(np.mean([np.median(record.damage) for record in residual]))
    numbers = {"plain": lost.mean(), "residual": kept, "plain_error": error.mean()}
    text = (
        f"{counted(evidence.seeds, 'plain twin')} of 14 layers (mean error {percent(float(error.mean()))}): deleting "
        f"one layer costs a median of {points(float(lost.mean()))}; residual twins: {points(kept)}"
    )
    unlearnt = not_learnt(evidence, {"plain": error}, 0.5)
    if unlearnt:
        return Measured(f"{text}; {unlearnt}", None, numbers)
    return Measured(text, above(lost / (chance - error), 0.5), numbers)


def downsampling(record: SingleDeletions) -> Measured:
    """Whether blocks without an identity shortcut do the most damage."""
    changing = [index for index, kind in enumerate(record.shortcuts) if kind != "identity"]
    if not changing or len(changing) == len(record.names):
        return Measured("this network does not have both kinds of blocks", None)
    order = np.argsort(-record.damage, kind="stable").tolist()
    ranks = sorted(order.index(index) + 1 for index in changing)
    text = f"the {len(ranks)} such blocks rank {listed([str(rank) for rank in ranks])} of {len(order)}"
    return Measured(text, rank_first(ranks, len(order)), {"worst_rank": ranks[-1]})


def smooth_deletion(record: RandomDeletions) -> Measured:
    """Whether the median error rises without large steps."""
    line = np.concatenate([[record.full], record.quantiles((0.5,))[0]])
    if len(line) < 4:
        return Measured("too few blocks to delete several", None)
    holds, rank, step = rises_smoothly(np.concatenate([[0], record.counts]), line)
    text = f"rank correlation {number(rank)}; the largest step between neighbours is {percent(step)} of the rise"
    return Measured(text, holds, {"rank_correlation": rank, "largest_step": step})


def _reordered(evidence: Evidence) -> Measured:
    try:
        return smooth_reordering(evidence.reordered)
    except ValueError as reason:
        return Measured(str(reason), None)


def smooth_reordering(record: Reorderings) -> Measured:
    """Whether the error rises as Kendall's tau falls."""
    rank, low, high = record.rank_correlation()
    text = (
        f"rank correlation of error and Kendall's tau {number(rank)} (on more images it may lie between "
        f"{number(low)} and {number(high)})"
    )
    return Measured(text, high < -0.5, {"rank_correlation": rank, "low": low, "high": high})


def decay(found: EffectivePaths) -> Measured:
    """Whether a path's norm falls exponentially with its length."""
    if not np.isfinite(found.decay):
        return Measured("too few lengths carry gradient", None)
    text = (
        f"each further branch multiplies the norm by {number(found.decay)}; R² of the exponential {found.decay_fit:.3f}"
    )
    return Measured(text, found.decay < 1 and found.decay_fit > 0.9, {"decay": found.decay, "fit": found.decay_fit})


def short_paths(found: EffectivePaths) -> Measured:
    """Whether the effective lengths lie below the mean length."""
    text = (
        f"{percent(found.mass)} of the gradient in lengths {found.low} to {found.high}, mean "
        f"{number(found.mean_length)}; the paths' mean is {number(found.n / 2)}"
    )
    return Measured(text, found.high < found.n / 2, {"high": found.high, "mean_length": found.mean_length})


def few_paths(found: EffectivePaths) -> Measured:
    """Whether the effective lengths hold few of all paths."""
    text = f"{percent(found.path_share)} of all paths of this network of {counted(found.n, 'block')}"
    return Measured(text, found.path_share < 0.01, {"path_share": found.path_share})


PAPER = Paper(
    "veit2016",
    "Veit, Wilber and Belongie (2016), Residual Networks Behave Like Ensembles of Relatively Shallow Networks",
    (
        Claim(
            "path-count",
            "section 5",
            "In a network of 54 blocks, few paths have 5 to 17 blocks",
            "0.45 % of all paths",
            lambda evidence: path_count(),
            kind="check",
        ),
        Claim(
            "path-lengths",
            "section 5, figure 6 a",
            "Most paths of 54 blocks have 19 to 35 of them",
            "more than 95 % of all paths",
            lambda evidence: middle_lengths(),
            kind="check",
        ),
        Claim(
            "halving",
            "section 4.1",
            "Deleting a block halves the number of paths",
            "2^n before, 2^(n-1) after",
            _halving,
            kind="check",
        ),
        Claim(
            "single-deletion",
            "section 4.1, figure 3",
            "Deleting one block of a residual network hardly matters",
            "most blocks cost at most 5 points and none leads to chance, by 95 % intervals",
            lambda evidence: single_deletion(evidence.single, evidence.subject.chance),
        ),
        Claim(
            "plain-deletion",
            "section 4.1, figure 3",
            "Deleting a layer destroys a plain network",
            "a median of more than half of the way to chance, significant over training runs",
            _plain_deletion,
        ),
        Claim(
            "downsampling",
            "section 4.1",
            "Deleting blocks that change the shape does the most damage",
            "they cause the most damage of all",
            lambda evidence: downsampling(evidence.single),
        ),
        Claim(
            "smooth-deletion",
            "section 4.2, figure 5 a",
            "The error rises smoothly with the number of deleted blocks",
            "rank correlation above 0.9, no step of half the rise",
            lambda evidence: smooth_deletion(evidence.several),
        ),
        Claim(
            "smooth-reordering",
            "section 4.3, figure 5 b",
            "The error rises smoothly as blocks are permuted",
            "rank correlation with Kendall's tau below -0.5",
            _reordered,
        ),
        Claim(
            "decay",
            "section 5, figure 6 b",
            "The gradient of a path falls exponentially with its length (also before training)",
            "factor below 1 per branch, R² above 0.9",
            lambda evidence: decay(evidence.effective),
        ),
        Claim(
            "short-paths",
            "section 5, figure 6 c",
            "Nearly all gradient comes through paths shorter than the mean",
            "95 % of it below n/2",
            lambda evidence: short_paths(evidence.effective),
        ),
        Claim(
            "few-paths",
            "section 5",
            "The paths that carry the gradient are few",
            "below 1 % of all paths (0.45 % in the paper, of 54 blocks)",
            lambda evidence: few_paths(evidence.effective),
        ),
    ),
)
