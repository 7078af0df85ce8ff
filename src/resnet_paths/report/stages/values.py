"""The value of each block when any of the others may be missing too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...lesion import BlockValues, Exploration, block_values
from ...lesion.game import MOST_EXHAUSTIVE
from ...nouns import counted
from ...plot import plot_block_values, plot_interactions
from ...statistics import spearman
from ..effort import Effort, passes
from ..measure import Measure
from ..pictures import Mark, marks, picture
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import block_name, listed, number, power


def run(subject: Subject, options: Options) -> Section:
    """Shapley values of all blocks, and exact interactions of the most valuable ones."""
    net = subject.fast
    if len(net) < 2:
        raise NotApplicableError(f"a network of {counted(len(net), 'block')} is too small for the block game")
    known, measure = _known(subject), Measure.of(subject.game, subject.noun)
    data = subject.images(options["images"] if known is None else len(known.labels))
    common: dict[str, Any] = {**subject.study, "metric": subject.game, "seed": subject.seed, "known": known}
    every = known is not None or _every(len(net), options)
    record = block_values(net, data, max_permutations=options["permutations"], exhaustive=every, **common)
    alone = block_values(net, data, method="leave-one-out", **common)
    players = sorted(np.argsort(-record.values, kind="stable")[: options["players"]].tolist())
    pairs = block_values(net, data, blocks=players, interactions=True, **common)
    values, finding = _values(record, alone, measure)
    return Section(
        (values, _interactions(pairs, measure.words)), (finding,), _warnings(record, options["permutations"])
    )


def _known(subject: Subject) -> Exploration | None:
    """What the explorer has measured of all sets; it measures the loss."""
    return subject.all_sets if subject.game == "loss" else None


def _every(n: int, options: Options) -> bool:
    """Whether all coalitions cost no more than the orders that would be sampled instead."""
    return n <= MOST_EXHAUSTIVE and 2 ** (n + 1) / n <= options["permutations"] * n / 2


def _against_single_deletions(rank: float) -> str:
    if not np.isfinite(rank):
        return "Single deletions, or the values, do not differ between blocks, so they give no ranking."
    return f"The rank correlation with the damage by single deletions is {number(rank)}: " + (
        "mostly the same blocks matter." if rank > 0.8 else "a block's value depends on which others are present."
    )


def _values(record: BlockValues, alone: BlockValues, measure: Measure) -> tuple[Part, str]:
    words, value = measure.words, measure.amount
    order = np.argsort(-record.values, kind="stable")
    best = [block_name(record.names[index]) for index in order[:3]]
    finding = (
        f"On average over all orders of adding the blocks, {best[0]} lowers the {words} most, by "
        f"{value(record.values[order[0]])} (its Shapley value)"
        + (f"; {listed(best[1:])} follow{'s' if len(best) == 2 else ''}." if len(best) > 1 else ".")
    )
    _, high = record.intervals()
    harmful = [block_name(name) for name, end in zip(record.names, high, strict=True) if end < 0]
    rank = float(spearman(record.values[None], alone.values[None])[0])
    reading = (
        finding,
        f"Without any block the {words} is {measure.value(record.empty)}, with all blocks "
        f"{measure.value(record.full)}. Add the blocks one by one, in random order: the Shapley value of a block is "
        f"the average decrease in {words} when it is added. The values of all blocks sum to the total decrease.",
        _against_single_deletions(rank),
        f"Blocks that raise the {words} on average (95 % interval entirely on that side): {listed(harmful)}."
        + (" They do so when others are missing; with all others present they may still help." if harmful else ""),
    )
    alt = (
        f"Shapley values of {counted(len(record.names), 'block')} with standard errors: {best[0]} lowers "
        f"the {words} most, {block_name(record.names[order[-1]])} least."
    )
    frame = record.to_pandas().assign(leave_one_out=alone.values)
    how = "all coalitions" if record.exhaustive else f"{counted(record.coalitions, 'coalition')} sampled"
    title = "Cross-entropy (nats)" if measure.name == "loss" else measure.title
    table = Table.of("block_values", f"{title}, {how}", frame)
    tips = marks(table, lambda row: _tip(row, measure), y="value")
    drawn = picture(lambda ax: plot_block_values(record, ax), alt, tips)
    return Part("Values", reading, drawn, (table,)), finding


def _tip(row: Mapping[str, Any], measure: Measure) -> str:
    moves = "lowers" if row["value"] >= 0 else "raises"
    return f"{block_name(row['name'])} {moves} the {measure.words} by {measure.amount(abs(row['value']))}"


def _interactions(record: BlockValues, words: str) -> Part:
    if record.interactions is None:
        raise RuntimeError("expected interactions")
    n = len(record.names)
    rows = [
        {"one": record.names[j], "other": record.names[i], "interaction": record.interactions[i, j]}
        for i in range(n)
        for j in range(i)
    ]
    frame = pd.DataFrame(rows)
    low, high = (frame.iloc[int(place)] for place in (frame["interaction"].argmin(), frame["interaction"].argmax()))
    reading = [
        *_extremes(low, high),
        f"Measured on the {n} most valuable blocks, over all {power(2, n)} ways to keep or delete them, with the other "
        f"blocks kept. Below zero (purple), deleting both blocks raises the {words} more than the two single deletions "
        "together: they can replace each other. Above zero (orange) they need each other: one is worth little without "
        "the other.",
    ]
    alt = f"Pairwise interactions of {n} blocks: highest between {_pair(high)}, lowest between {_pair(low)}."
    table = Table.of("interactions", "Pairs", frame)

    def draw(ax: Axes) -> None:
        plot_interactions(record, ax, legend=False)
        for text in ax.texts:
            text.set_color("black")  # the ink, which the page's colours of cells suit in light and in dark

    drawn = picture(draw, alt, _pair_tips(record, table), size=(4.4, 3.6))
    return Part("Interactions", tuple(reading), drawn, (table,))


def _pair(row: Mapping[str, Any] | pd.Series) -> str:
    return f"{block_name(row['one'])} and {block_name(row['other'])}"


def _extremes(low: pd.Series, high: pd.Series) -> list[str]:
    """The pairs that stand out, in one paragraph (none, where no pair does)."""
    text = []
    if low["interaction"] < 0:
        text.append(f"Best substitutes: {_pair(low)} ({number(float(low['interaction']))}).")
    if high["interaction"] > 0:
        text.append(f"Most dependent: {_pair(high)} ({number(float(high['interaction']))}).")
    return [" ".join(text)] if text else []


def _pair_tips(record: BlockValues, table: Table) -> list[Mark]:
    """Each pair is drawn on both sides of the diagonal."""
    index_of = {name: index for index, name in enumerate(record.names)}
    tips = []
    for index, row in enumerate(table.rows()):
        one, other, value = index_of[str(row["one"])], index_of[str(row["other"])], float(row["interaction"])
        text, cell = (
            f"{_pair(row)}: {number(value)}",
            (table.name, index, "interaction"),
        )
        tips += [Mark(one, other, text, cell, value), Mark(other, one, text, cell, value)]
    return sorted(tips, key=lambda mark: (mark.y, mark.x))


def _warnings(record: BlockValues, permutations: int) -> tuple[str, ...]:
    largest = float(np.abs(record.values).max())
    worst = float(record.standard_errors.max())
    if record.exhaustive or worst <= 0.1 * largest:
        return ()
    return (
        f"Shapley values were estimated from {permutations} orders. The largest standard error is {number(worst)}, "
        f"the largest value {number(largest)}. The ranks of blocks with similar values are uncertain. "
        "A longer --budget samples more.",
    )


def effort(subject: Subject, options: Options) -> Effort:
    """Half a pass for every block of every order, and the coalitions of those that interact.

    Nothing is measured if the explorer has measured all sets already.
    """
    n = len(subject.net)
    if _known(subject) is not None or n < 2:
        return Effort(seconds=3.0)
    orders = 2 ** (n + 1) / n if _every(n, options) else options["permutations"] * n / 2
    times = orders + n / 2 + 0.6 * 2 ** min(options["players"], n)
    return passes(times, subject.count(options["images"]), subject.at_once) + Effort(seconds=3.0)


STAGE = Stage(
    name="values",
    title="Value of each block, and interactions",
    question="What is a block worth if any of the others may be missing, and which blocks depend on each other?",
    run=run,
    quick={"images": 100, "permutations": 16, "players": 7},
    full={"images": 400, "permutations": 200, "players": 12},
    weight=5,
    least={"images": 4, "permutations": 4, "players": 3},
    effort=effort,
)
