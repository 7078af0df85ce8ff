"""Means over images with intervals, and differences from the first model that are paired by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from ..data.metrics import bound_of
from ..statistics import combined_intervals, intervals, mean_intervals
from .record import difference_of

Ends = tuple[np.ndarray, np.ndarray]


def statistics(
    measured: Mapping[str, np.ndarray], indices: np.ndarray, metric: str, confidence: float
) -> dict[str, np.ndarray]:
    """The fields of a comparison that are means over images, from what was measured of each model and image.

    Args:
        measured: by name, values of shape (models, ..., images); those of blocks in the order of each model.
        indices: (models, rows) the block of each model in each row of matched blocks.
        metric: its name.
        confidence: coverage of the intervals.
    """
    full, bound = measured["full"], bound_of(metric)
    deleted = in_rows(measured["deleted"], indices)
    damage = deleted - full[:, None]
    twice = None if bound is None else 2 * bound  # a difference of two damages, or of two values
    of_metric = partial(intervals, confidence=confidence, bound=bound)
    of_mean = partial(mean_intervals, confidence=confidence)
    own = [ends_of(rows, partial(of_metric, reference=whole)) for rows, whole in zip(deleted, full, strict=True)]
    made = {
        "per_image": full,
        "values": full.mean(-1),
        **_ends("", ends_of(full, of_metric)),
        "difference": (full - full[:1]).mean(-1),
        **_ends("difference_", ends_of(full, partial(of_metric, reference=full[0]))),
        **paired("damage", damage, of_mean, partial(of_mean, bound=twice)),
        **_ends("damage_", tuple(np.stack(side) for side in zip(*own, strict=True))),  # type: ignore[arg-type]
    }
    for name in ("deletion", "frontier", "recommended"):
        if name not in measured:
            continue
        # metrics are not negative, so that neither they nor their differences exceed the bound
        made |= paired(name, measured[name], *[partial(of_mean, bound=bound)] * 2)
    if "effective" in measured:  # shares of positive quantities, unlike parts of a gradient, which may cancel
        made |= paired("effective_share", measured["effective"], partial(_of_shares, confidence), of_mean)
    for name, values in (
        ("gradient_share", measured["share"]),
        ("contribution", _maybe_in_rows(measured.get("contribution"), indices)),
        ("surface", measured.get("surface")),
    ):
        if values is not None:
            made |= paired(name, values, of_mean, of_mean)
    if "shapley" in measured:
        made |= _shapley(measured, indices, confidence, bound, twice)
    made["difference_low"][0] = made["difference_high"][0] = 0.0
    return made


def _of_shares(confidence: float, values: np.ndarray) -> Ends:
    """Intervals of means of numbers between 0 and 1, which do not leave that range."""
    low, high = mean_intervals(values, confidence)
    return np.maximum(low, 0), np.minimum(high, 1)


def in_rows(values: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Values of each model's own blocks, (models, blocks, ...), in the rows of matched blocks; NaN where it has none.

    Example:
        >>> in_rows(np.array([[1.0, 2.0]]), np.array([[-1, 1, 0]]))
        array([[nan,  2.,  1.]])
    """
    rows = np.full((*indices.shape, *values.shape[2:]), np.nan)
    models, columns = np.nonzero(indices >= 0)
    rows[models, columns] = values[models, indices[models, columns]]
    return rows


def _maybe_in_rows(values: np.ndarray | None, indices: np.ndarray) -> np.ndarray | None:
    return None if values is None else in_rows(values, indices)


def paired(
    name: str,
    values: np.ndarray,
    interval: Callable[[np.ndarray], Ends],
    of_difference: Callable[[np.ndarray], Ends],
) -> dict[str, np.ndarray]:
    """Means over images, differences of these from the first model's, and the intervals of both.

    Args:
        name: of the quantity.
        values: (models, ..., images).
        interval: of the means of rows of images.
        of_difference: the same for rows of differences.
    """
    difference, named = values - values[:1], difference_of(name)
    made = {
        name: values.mean(-1),
        **_ends(f"{name}_", ends_of(values, interval)),
        named: difference.mean(-1),
        **_ends(f"{named}_", ends_of(difference, of_difference)),
    }
    for end in ("low", "high"):  # the reference's own difference is zero for certain
        made[f"{named}_{end}"][0] = made[named][0]
    return made


def ends_of(values: np.ndarray, interval: Callable[[np.ndarray], Ends]) -> Ends:
    """The ends of each row's interval over images; NaN for rows without finite values."""
    rows = values.reshape(-1, values.shape[-1])
    there = np.isfinite(rows).all(1)
    low, high = np.full((2, len(rows)), np.nan)
    if there.any():
        low[there], high[there] = interval(rows[there])
    return low.reshape(values.shape[:-1]), high.reshape(values.shape[:-1])


def _ends(prefix: str, ends: Ends) -> dict[str, np.ndarray]:
    return {f"{prefix}low": ends[0], f"{prefix}high": ends[1]}


def _shapley(
    measured: Mapping[str, np.ndarray], indices: np.ndarray, confidence: float, bound: float | None, twice: float | None
) -> dict[str, np.ndarray]:
    """Shapley values; where orders of blocks were sampled, the intervals are over these too.

    Models with the same number of blocks share their orders, which makes a difference more precise than the sum of both
    variances over orders that its interval is computed from.
    """
    values = in_rows(measured["shapley"], indices)
    errors = in_rows(measured["shapley_error"], indices)
    shared = in_rows(measured["shapley_shared"], indices)
    of_mean = partial(mean_intervals, confidence=confidence)
    made = paired("shapley", values, partial(of_mean, bound=bound), partial(of_mean, bound=twice))
    if not measured["orders"].any():
        return made
    pairs = np.maximum(measured["orders"] // 2, 2)
    sampled = {
        "shapley": (values, errors, shared, pairs, bound),
        "shapley_difference": (
            values - values[:1],
            np.hypot(errors, errors[:1]),
            shared + shared[:1],
            np.minimum(pairs, pairs[:1]),
            twice,
        ),
    }
    for name, (means, error, both, draws, limit) in sampled.items():
        for model in range(len(values)):
            there = np.isfinite(error[model])
            low, high = combined_intervals(
                means[model, there], error[model, there], both[model, there], int(draws[model]), confidence, bound=limit
            )
            if model or name == "shapley":
                made[f"{name}_low"][model, there], made[f"{name}_high"][model, there] = low, high
    return made
