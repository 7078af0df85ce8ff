"""Reordering the blocks."""

from __future__ import annotations

import numpy as np

from ...lesion import Reorderings, reorderings
from ...network import UnrollError
from ...nouns import counted
from ...plot import plot_reorderings
from ..effort import Effort, passes
from ..measure import Measure
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import number


def run(subject: Subject, options: Options) -> Section:
    """The metric after random swaps of blocks of equal shape."""
    data, measure = subject.images(options["images"]), subject.measure
    try:
        record = reorderings(
            subject.fast,
            data,
            options["swaps"],
            draws=options["draws"],
            seed=subject.seed,
            metric=subject.metric,
            **subject.study,
        )
    except UnrollError:
        raise
    except ValueError as reason:
        raise NotApplicableError(str(reason)) from None
    frame = record.by_swaps()
    value = measure.value
    finding = _finding(record, measure)
    reading = (finding, *_correlation(record, subject.counted(len(data)), subject.data.nouns, measure.words))
    rows = [f"{value(float(row['median']))} after {row['swaps']:.0f} swaps" for row in frame.to_dict("records")]
    alt = (
        f"{measure.title} of {len(record.orders)} orders against Kendall's tau with the original one; medians: "
        f"{', '.join(rows)}; {value(record.full)} in the original order."
    )
    by_swaps = Table.of("reordering_by_swaps", "By number of swaps", frame)
    values = marks(
        by_swaps,
        lambda row: f"{counted(row['swaps'], 'swap')} (tau {number(row['tau'])}): median {value(row['median'])}",
        y="median",
        x="tau",
    )
    drawn = picture(lambda ax: plot_reorderings(record, ax), alt, values)
    tables = (by_swaps, Table.of("reordering", "All orders", record.to_pandas()))
    code = subject.code(
        "from resnet_paths.lesion import reorderings\n\n"
        f"{subject.setup}print(reorderings(net, {subject.data_code}{subject.metric_code}).by_swaps())"
    )
    return Section((Part("Reordered blocks", reading, drawn, tables, code),), (finding,), _warnings(record))


def _finding(record: Reorderings, measure: Measure) -> str:
    least, most = int(record.swaps.min()), int(record.swaps.max())
    first, last = (float(np.median(record.values[record.swaps == count])) for count in (least, most))
    text = f"After {counted(least, 'random swap')} of blocks the median {measure.words} is {measure.value(first)} "
    text += f"({measure.change(first - record.full)})" if first != record.full else "(as in the original order)"
    return text + (f", after {most} swaps it is {measure.value(last)}." if most > least else ".")


def _correlation(record: Reorderings, examples: str, nouns: str, words: str) -> list[str]:
    movable = sum(len(group) for group in record.groups)
    about = (
        f"{counted(movable, 'block')} in {counted(len(record.groups), 'group')} of equal shape can be permuted. "
        f"Each order was run on {examples}."
    )
    if len(record.values) < 3 or np.ptp(record.values) == 0:
        return [about]
    rank, low, high = record.rank_correlation()
    if high < 0:
        verdict = "the further the order is from the original one, the worse"
    elif low > 0:
        verdict = "the further the order is from the original one, the better, which is unexpected"
    else:
        verdict = "no significant trend"
    return [
        about,
        "Kendall's tau measures how much of the original order is left (1: all of it). Its rank correlation with the "
        f"{words} is {number(rank)} (on more {nouns} it may lie between {number(low)} and {number(high)}): {verdict}. "
        "Veit et al. (2016, section 4.3) found that the error rises smoothly.",
    ]


def _warnings(record: Reorderings) -> tuple[str, ...]:
    draws = len(record.values) // len(np.unique(record.swaps))
    if draws >= 10:
        return ()
    return (f"Only {counted(draws, 'order')} per number of swaps: medians are rough. A longer --budget draws more.",)


def effort(subject: Subject, options: Options) -> Effort:
    """Nearly one pass per order: only the blocks before the first swapped one are shared."""
    orders = len(options["swaps"]) * options["draws"]
    return passes(1 + 0.8 * orders, subject.count(options["images"]), subject.at_once) + Effort(seconds=1.0)


STAGE = Stage(
    name="reordering",
    title="Reordering blocks",
    question="How much does the order of the blocks matter?",
    run=run,
    quick={"images": 200, "swaps": (1, 2, 4, 8, 16, 32), "draws": 6},
    full={"images": 1000, "swaps": (1, 2, 4, 8, 16, 32, 64), "draws": 20},
    weight=3,
    least={"images": 8, "swaps": (1, 4, 16), "draws": 2},
    effort=effort,
)
