"""How verdicts are reached: rules on plain numbers, so that tests can feed them data without an effect.

A verdict has three values. Few seeds and few images often show nothing either way, and a rule with two values would
call that a failed or, worse, a confirmed claim. Each rule states what evidence it needs, and how often it decides
wrongly where there is no effect. Student's interval is meaningful only from three seeds on.
"""

from __future__ import annotations

import math
from math import comb

import numpy as np

from ...statistics import spearman, student_quantile

LEAST_SEEDS = 3
_WALKS, _DIMENSIONS = 200, 500  # shares spread less in more dimensions, so this is the careful side


def above(differences: np.ndarray, threshold: float = 0.0, confidence: float = 0.95) -> bool | None:
    """Whether the mean of differences, one per training run, is above a threshold, by Student's t-test.

    Args:
        differences: one for each seed.
        threshold: what the mean is compared with.
        confidence: of the interval that must lie on one side. Where there is no effect, half of the remaining cases
            are said to lie above: 2.5 %.

    Returns:
        True if the mean is significantly above, False if significantly below; None (inconclusive) if neither, or with
        fewer than three seeds.

    Example:
        >>> above(np.array([0.3, 0.2, 0.4])), above(np.array([0.3, -0.2, 0.1])), above(np.array([0.3]))
        (True, None, None)
    """
    count = len(differences)
    if count < LEAST_SEEDS or np.ptp(differences) == 0 or not np.isfinite(differences).all():
        return None
    half = student_quantile((1 + confidence) / 2, count - 1) * differences.std(ddof=1) / math.sqrt(count)
    gap = float(differences.mean()) - threshold
    return None if abs(gap) <= half else gap > 0


def all_seeds(wins: int, seeds: int) -> bool | None:
    """Whether one kind wins at every seed (True) or at none (False), if a fair coin does so in at most 5 % of cases.

    Example:
        >>> all_seeds(5, 5), all_seeds(0, 5), all_seeds(4, 5), all_seeds(3, 3)
        (True, False, None, None)
    """
    return wins > 0 if wins in (0, seeds) and 0.5**seeds <= 0.05 else None


def every(*verdicts: bool | None) -> bool | None:
    """Whether several statements hold jointly: False if one is refuted, otherwise None if one is inconclusive.

    Example:
        >>> every(True, True), every(True, None), every(None, False)
        (True, None, False)
    """
    return False if False in verdicts else None if None in verdicts else True


def word(holds: bool | None) -> str:
    """A verdict on a claim in words.

    Example:
        >>> word(True), word(None)
        ('holds', 'inconclusive')
    """
    return "inconclusive" if holds is None else "holds" if holds else "does not hold"


def most(low: np.ndarray, high: np.ndarray, threshold: float) -> bool | None:
    """Whether most values are at most a threshold, given an interval for each; None if inconclusive.

    Example:
        >>> most(np.array([0.0, 0.0, 0.1]), np.array([0.04, 0.01, 0.3]), 0.05)
        True
        >>> most(np.array([0.0, 0.0, 0.1]), np.array([0.08, 0.01, 0.3]), 0.05) is None
        True
    """
    if (high <= threshold).mean() > 0.5:
        return True
    return False if (low > threshold).mean() > 0.5 else None


def rank_first(ranks: list[int], total: int) -> bool | None:
    """Whether some of `total` items rank before all others; None if chance alone does that in one of twenty cases.

    Example:
        >>> rank_first([1, 2], 27), rank_first([1, 3], 27), rank_first([1], 9)
        (True, False, None)
    """
    first = sorted(ranks) == list(range(1, len(ranks) + 1))
    return None if first and comb(total, len(ranks)) < 20 else first


def rises_smoothly(counts: np.ndarray, line: np.ndarray) -> tuple[bool, float, float]:
    """Whether a curve rises with the counts, without a step of half of its rise.

    Returns:
        The verdict; Spearman's rank correlation; the largest step's share of the rise.

    Example:
        >>> rises_smoothly(np.arange(5), np.array([0.1, 0.2, 0.3, 0.4, 0.5]))[0]
        True
    """
    if np.ptp(line) == 0:
        return False, math.nan, math.nan
    rank = float(spearman(counts[None], line[None])[0])
    step = float(np.diff(line).max() / np.ptp(line))
    return rank > 0.9 and step < 0.5, rank, step


def walk_shares(steps: np.ndarray, seed: int = 0, walks: int = _WALKS) -> np.ndarray:
    """Share of variance of two principal components of random walks with steps of these lengths, in random directions.

    Args:
        steps: (count,) lengths.
        seed: of the walks.
        walks: how many.

    Source: Antognini and Sohl-Dickstein (2018), PCA of high dimensional random walks: for many steps of one length
        the share is 0.61 + 0.15.

    Example:
        >>> round(float(walk_shares(np.ones(300), walks=3).mean()), 2)
        0.76
    """
    generator = np.random.default_rng(seed)
    shares = []
    for _ in range(walks):
        moves = generator.standard_normal((len(steps), _DIMENSIONS))
        moves *= (steps / np.linalg.norm(moves, axis=1))[:, None]
        shares.append(plane_share(np.concatenate([np.zeros((1, _DIMENSIONS)), moves.cumsum(0)])))
    return np.array(shares)


def plane_share(points: np.ndarray) -> float:
    """The share of variance of points (points, dimensions) explained by their first two principal components."""
    centred = points - points.mean(0)
    spectrum = np.linalg.eigvalsh(centred @ centred.T)[::-1]
    return float(spectrum[:2].sum() / spectrum.sum())


def low_dimensional(points: np.ndarray, least: float = 0.4, seed: int = 0) -> tuple[bool | None, float, float]:
    """Whether a path lies in fewer dimensions than a random walk with steps of the same lengths.

    Returns:
        Whether two components explain `least` or more, and more than in 95 % of the walks (None if they explain as
        much as walks do: then the share says nothing about the trajectory); their share; the walks' median.
    """
    share = plane_share(points)
    walks = walk_shares(np.linalg.norm(np.diff(points, axis=0), axis=1), seed)
    if share < least:
        return False, share, float(np.median(walks))
    return True if share > np.quantile(walks, 0.95) else None, share, float(np.median(walks))
