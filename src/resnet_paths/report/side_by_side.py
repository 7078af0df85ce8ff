"""The sections of a page that compares models: figures, tables, and readings of them in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from ..comparison import Comparison
from ..data.metrics import is_share
from ..landscape import Surface
from ..nouns import counted
from ..plot import plot_side_by_side, plot_surface_heat
from .pictures import Mark, marks, picture
from .relief import ONE_PLANE, surface_marks
from .section import Headline, Part, Section, Table
from .words import listed, number, percent, points, seconds


def worded(metric: str, value: float) -> str:
    """A value of a metric.

    Example:
        >>> worded("error", 0.021), worded("loss", 0.3456)
        ('2.1 %', '0.346')
    """
    return percent(value) if is_share(metric) else number(value)


def told_difference(metric: str, value: float) -> str:
    """A difference of two values of a metric, with its sign.

    Example:
        >>> told_difference("error", 0.021), told_difference("loss", 0.3456)
        ('+2.1 points', '+0.346')
    """
    return points(value) if is_share(metric) else f"{'+' if value > 0 else ''}{number(value)}"


def finding(record: Comparison) -> str:
    """What the comparison found, in one line: the model that differs most from the first by more than its interval.

    With two models, the difference of means is given with its interval; with more, that of the largest difference.
    """
    first = record.models[0]
    apart = (record.difference_low > 0) | (record.difference_high < 0)
    if not apart.any():
        return f"No model's {record.metric} differs from that of {first} by more than its interval"
    model = int(np.argmax(np.where(apart, np.abs(record.difference), 0)))
    return f"{record.models[model]} against {first}: {record.metric} {_with_interval(record, model)}"


def _with_interval(record: Comparison, model: int) -> str:
    ends = (record.difference[model], record.difference_low[model], record.difference_high[model])
    difference, low, high = (told_difference(record.metric, float(end)) for end in ends)
    return f"{difference} ({low.removesuffix(' points')} to {high.removesuffix(' points')})"


def most_different(record: Comparison) -> str:
    """The block whose damage differs most from the first model's, if any differs by more than its interval."""
    low, high = record.damage_difference_low, record.damage_difference_high
    apart = (low > 0) | (high < 0)
    if not apart.any():
        return "No block's damage differs by more than its interval."
    model, row = np.unravel_index(np.argmax(np.where(apart, abs(record.damage_difference), 0)), apart.shape)
    compared = int(np.isfinite(record.damage_difference[1:]).sum())
    return (
        f"For {int(apart.sum())} of {compared} blocks, the interval of the difference in damage (each on its own) "
        f"excludes zero. The largest difference: {record.blocks[row]} of {record.models[model]}, "
        f"{record.damage_difference[model, row]:+.4g} ({low[model, row]:+.4g} to {high[model, row]:+.4g})."
    )


def latency_sentences(record: Comparison) -> tuple[str, ...]:
    """How long each model takes, as a share of the first one's time; none unless it was measured."""
    if record.latency is None or record.latency_share is None:
        return ()
    low, high = record.latency_share_low, record.latency_share_high
    if low is None or high is None:
        return ()
    return (
        f"A forward pass of {record.models[0]} takes {seconds(float(record.latency[0]))}.",
        *(
            f"{name} takes {percent(float(record.latency_share[model]))} of that time "
            f"({percent(float(low[model]))} to {percent(float(high[model]))}), measured in turn."
            for model, name in enumerate(record.models)
            if model
        ),
    )


def headline(record: Comparison) -> Headline:
    """The top of the page: the finding, and each model's metric."""
    numbers = tuple(
        (
            name,
            worded(record.metric, float(record.values[model])),
            f"{record.metric}; {percent(record.confidence)} interval "
            f"{worded(record.metric, float(record.low[model]))} to {worded(record.metric, float(record.high[model]))}",
        )
        for model, name in enumerate(record.models[:4])
    )
    return Headline(finding(record), numbers)


def sections(record: Comparison) -> Iterator[tuple[str, str, str, Section]]:
    """(name, title, question, section) of everything that was compared."""
    yield (
        "models",
        "The models",
        f"By how much do the models differ on the same {record.source.nouns}?",
        _models(record),
    )
    yield "blocks", "Blocks", "Which blocks matter to one model and not to another?", _blocks(record)
    deleted = {
        "deletion": "Random blocks deleted",
        "frontier": "The least damaging blocks deleted",
        "recommended": "Blocks dropped in the recommended order",
    }
    table = Table.of("deletions", "By number of deleted blocks", record.by_deleted())
    question = "How much does each model lose as blocks are deleted?"
    reading = (
        "Curves of the least damaging and of the recommended blocks are measured on one half of the "
        f"{record.source.nouns}.",
    )
    yield "deletions", "Deleting several blocks", question, _curves(record, deleted, table, "deleted", reading)
    shares = {
        "gradient_share": "Share of the gradient",
        "effective_share": "Effective paths",
        "path_share": "All paths",
    }
    table = Table.of("lengths", "Shares of each path length", record.by_length())
    question = "How long are the paths, and which carry the gradient?"
    if len(record.by_length()):  # plain networks alone have no paths
        yield "lengths", "Path lengths", question, _curves(record, shares, table, "length", _mean_lengths(record))
    if record.surface is not None:
        yield (
            "surface",
            "Loss surfaces",
            "How does the loss change around the weights of each model?",
            _surfaces(record),
        )


def _models(record: Comparison) -> Section:
    rows = [f"{name}: {record.metric} {_with_interval(record, model)}" for model, name in enumerate(record.models)][1:]
    noun = record.source.noun
    reading = [
        f"Differences from {record.models[0]}, {noun} by {noun}, with {percent(record.confidence)} intervals: "
        f"{listed(rows, most=8)}.",
        f"All models see the same {counted(record.images, noun)}. Each interval covers its own difference.",
        *latency_sentences(record),
        *_eigenvalues(record),
    ]
    table = Table.of("models", "One row per model", record.to_pandas())
    warnings = (f"Only {counted(record.images, noun)}.",) if record.images < 200 else ()
    return Section(
        (Part("Metric and size", tuple(reading), None, (table,)),), (finding(record),), warnings, headline(record)
    )


def _eigenvalues(record: Comparison) -> Iterator[str]:
    if record.largest_eigenvalue is None or record.smallest_eigenvalue is None:
        return
    for name, high, low in zip(record.models, record.largest_eigenvalue, record.smallest_eigenvalue, strict=True):
        yield f"The Hessian of {name} has eigenvalues from {number(float(low))} to {number(float(high))}."


def _blocks(record: Comparison) -> Section:
    titles = {"damage": "Deleting one block", "contribution": "Direct contributions", "shapley": "Shapley values"}
    table = Table.of("blocks", "Every block of every model", record.by_block())
    extreme = most_different(record)
    first, *others = [
        _drawn(record, quantity, title, _block_marks(record, table, quantity))
        for quantity, title in titles.items()
        if getattr(record, quantity) is not None
    ]
    return Section((replace(first, reading=(extreme,), tables=(table,)), *others), (extreme,))


def _block_marks(record: Comparison, table: Table, quantity: str) -> list[Mark]:
    """The values of a figure by block, each at the place of its row of matched blocks."""
    places = {name: place for place, name in enumerate(record.blocks)}
    return [
        replace(mark, x=float(places[row["block"]]))
        for row, mark in _with_rows(table, quantity, lambda row: f"{row['model']}, {row['block']}")
    ]


def _with_rows(
    table: Table, quantity: str, name: Callable[[Mapping[str, Any]], str], x: str | None = None
) -> list[tuple[Mapping[str, Any], Mark]]:
    """The rows of a table that have a value, each with its mark."""

    def text(row: Mapping[str, Any]) -> str:
        ends = row.get(f"{quantity}_low", math.nan), row.get(f"{quantity}_high", math.nan)
        interval = f" ({number(ends[0])} to {number(ends[1])})" if all(map(math.isfinite, ends)) else ""
        return f"{name(row)}: {number(row[quantity])}{interval}"

    rows = table.rows()
    return [(rows[mark.cell[1]], mark) for mark in marks(table, text, y=quantity, x=x)]


def _curves(
    record: Comparison, titles: Mapping[str, str], table: Table, x: str, reading: tuple[str, ...] = ()
) -> Section:
    """Curves of all models over a column of a table."""
    first, *others = [
        _drawn(
            record,
            quantity,
            title,
            [mark for _, mark in _with_rows(table, quantity, lambda row: f"{row['model']}, {row[x]}", x)],
        )
        for quantity, title in titles.items()
        if getattr(record, quantity) is not None
    ]
    return Section((replace(first, reading=reading, tables=(table,)), *others))


def _mean_lengths(record: Comparison) -> tuple[str, ...]:
    means = [
        f"{name} {mean:.2f}" for name, mean in zip(record.models, record.mean_length, strict=True) if np.isfinite(mean)
    ]
    return (f"Mean path length of the gradient: {listed(means, most=24)}.",)


def _drawn(record: Comparison, quantity: Any, title: str, values: Sequence[Mark]) -> Part:
    def draw(ax: Axes) -> None:
        plot_side_by_side(record, quantity, ax, film=record.is_film)

    alt = f"{title}, {counted(len(record.models), 'model')} side by side: {listed(record.models, most=6)}."
    return Part(title, (), picture(draw, alt, values))


def _surfaces(record: Comparison) -> Section:
    surfaces = record.surfaces
    ends = [pick(pick(_positive(surface)) for surface in surfaces.values()) for pick in (min, max)]
    parts = [_surface(record, model, name, surface, ends) for model, (name, surface) in enumerate(surfaces.items())]
    return Section(tuple(parts), (), (ONE_PLANE,))


def _surface(record: Comparison, model: int, name: str, surface: Surface, ends: Sequence[float]) -> Part:
    low, high = ends
    table = Table.of(f"surface_{model + 1}", f"Every cell of {name}", surface.to_pandas())
    reading = [
        f"Both axes and the colours are those of all models: losses from {number(ends[0])} to {number(ends[1])}."
    ]
    if record.convex is not None and np.isfinite(record.convex[model]):
        convex = percent(float(record.convex[model]))
        reading.append(f"The logarithm of the loss is convex at {convex} of the inner points.")

    def draw(ax: Axes) -> None:
        plot_surface_heat(surface, ax=ax, norm=LogNorm(low, high), log=True)

    alt = f"Loss of {name} over a plane of two random filter-normalised directions."
    drawn = picture(draw, alt, surface_marks(table), size=(4.4, 3.4))
    return Part(name, tuple(reading), drawn, (table,))


def _positive(surface: Surface) -> list[float]:
    loss = surface.values["loss"]
    finite: list[float] = loss[np.isfinite(loss) & (loss > 0)].tolist()
    return finite
