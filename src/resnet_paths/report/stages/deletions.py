"""Deleting several blocks at random."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...lesion import RandomDeletions, random_deletions
from ...nouns import counted
from ...plot import plot_random_deletions
from ...statistics import spearman
from ..effort import Effort, passes
from ..measure import Measure
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import number, percent
from .lesion import level_of


def run(subject: Subject, options: Options) -> Section:
    """The metric against the number of random blocks deleted."""
    n = len(subject.net)
    if n < 2:
        raise NotApplicableError(f"a network of {counted(n, 'block')} has too few blocks to delete several")
    data, measure = subject.images(options["images"]), subject.measure
    counts = chosen_counts(n, options["counts"])
    record = random_deletions(
        subject.fast,
        data,
        counts,
        draws=options["draws"],
        seed=subject.seed,
        metric=subject.metric,
        **subject.study,
    )
    middle, value = record.quantiles((0.5,))[0], measure.value
    chance = subject.constant if subject.constant is not None and record.full < subject.constant else None
    finding = _finding(record, middle, measure, subject.constant)
    reading = (finding, _smooth(record, middle, measure))
    alt = (
        f"Median {measure.words} against the number of random blocks deleted: {value(record.full)} without deletion, "
        + ", ".join(f"{value(m)} without {c}" for c, m in zip(record.counts, middle, strict=True))
        + "; the band holds the middle 80 % of the draws."
    )
    by_number = Table.of("deletions_by_number", f"{measure.title} by number of deleted blocks", by_number_of(record))
    values = marks(
        by_number,
        lambda row: (
            f"{counted(row['deleted'], 'block')} deleted: {value(row['median'])}, 80 % of the draws "
            f"{value(row['tenth'])} to {value(row['ninetieth'])}"
        ),
        y="median",
        x="deleted",
    )
    line = chance if measure.name == "error" else None
    drawn = picture(lambda ax: plot_random_deletions(record, ax, chance=line), alt, values)
    table = Table.of("deletions", f"{measure.title} of each draw", record.to_pandas())
    warnings = []
    if options["draws"] < 20:
        warnings.append(
            f"Each number of deleted blocks was drawn {options['draws']} times on {subject.counted(len(data))}, so "
            "the band is rough. A longer --budget draws more."
        )
    return Section((Part("Several blocks deleted", reading, drawn, (by_number, table)),), (finding,), tuple(warnings))


def by_number_of(record: RandomDeletions) -> pd.DataFrame:
    """One row per number of deleted blocks, from none: quantiles over the draws."""
    spread = record.quantiles((0.1, 0.5, 0.9))
    columns = {"deleted": [0, *map(int, record.counts)]}
    names = ("tenth", "median", "ninetieth")
    return pd.DataFrame(columns | {name: [record.full, *line] for name, line in zip(names, spread, strict=True)})


def chosen_counts(n: int, most: int | None) -> list[int]:
    """Numbers of blocks to delete, from 1 to n, denser at the start; all if `most` is None.

    Example:
        >>> chosen_counts(27, 6), chosen_counts(3, 6)
        ([1, 2, 4, 7, 14, 27], [1, 2, 3])
    """
    if most is None or n <= most:
        return list(range(1, n + 1))
    return sorted({round(float(value)) for value in np.geomspace(1, n, most)})


def _finding(record: RandomDeletions, middle: np.ndarray, measure: Measure, constant: float | None) -> str:
    """How far deletions go; of a share of answers with the number that costs at most five points."""
    if constant is None:
        return _ends(record, middle, measure)
    if record.full >= constant:
        return _kept(record, middle, measure, constant)
    half, level = (record.full + constant) / 2, level_of(measure, constant)
    level = "chance" if measure.name == "error" else level
    some = _within(record, middle, measure) if measure.share else _ends(record, middle, measure).removesuffix(".")
    over = np.flatnonzero(middle >= half)
    if not len(over):
        return f"{some}; none of the numbers tried takes it half of the way to {level}."
    return f"{some}; with {record.counts[over[0]]} deleted it is at least half of the way to {level}."


def _within(record: RandomDeletions, middle: np.ndarray, measure: Measure) -> str:
    kept = np.flatnonzero(middle <= record.full + 0.05)
    first = counted(int(record.counts[0]), "random block")
    if not len(kept):
        return (
            f"Deleting {first} already changes the median {measure.words} by {measure.change(middle[0] - record.full)}"
        )
    return (
        f"With {counted(int(record.counts[kept[-1]]), 'random block')} deleted the median {measure.words} is "
        f"{measure.value(middle[kept[-1]])}, still within 5 points of the full network's {measure.value(record.full)}"
    )


def _ends(record: RandomDeletions, middle: np.ndarray, measure: Measure) -> str:
    """The reading where the level of a constant answer is unknown."""
    first, last = int(record.counts[0]), int(record.counts[-1])
    return (
        f"The median {measure.words} goes from the full network's {measure.value(record.full)} to "
        f"{measure.value(middle[0])} with {counted(first, 'random block')} deleted"
        + (f" and {measure.value(middle[-1])} with {last}." if last > first else ".")
    )


def _kept(record: RandomDeletions, middle: np.ndarray, measure: Measure, constant: float) -> str:
    """The reading for a network that is no better than a constant answer."""
    level = (
        f"chance, {measure.value(constant)}"
        if measure.name == "error"
        else f"that of the best constant answer, {measure.value(constant)}"
    )
    return (
        f"The full network's {measure.words}, {measure.value(record.full)}, is no lower than {level}, so the effect of "
        f"deletions cannot be measured. With {counted(int(record.counts[-1]), 'random block')} deleted the median "
        f"{measure.words} is {measure.value(middle[-1])}."
    )


def _smooth(record: RandomDeletions, middle: np.ndarray, measure: Measure) -> str:
    words = measure.words
    if len(middle) < 3:
        return f"Too few numbers of deletions were tried to judge how smoothly the {words} rises."
    rank = float(spearman(np.array([record.counts]), middle[None])[0])
    line = np.concatenate([[record.full], middle])
    if not np.isfinite(rank):
        return f"The median {words} is {measure.value(middle[0])} for every number of deletions: it does not rise."
    jump = int(np.argmax(np.diff(line)))
    start = 0 if jump == 0 else int(record.counts[jump - 1])
    share = float(np.diff(line)[jump] / (line.max() - line.min())) if line.max() > line.min() else 0.0
    return (
        f"How smooth is the rise? The rank correlation between {words} and number is {number(rank)} (1 is a rise at "
        f"every step). The largest step, from {start} to {record.counts[jump]} deletions, makes up {percent(share)} "
        "of the total rise. Veit et al. (2016, section 4.2) interpret a smooth rise as an ensemble that loses "
        "members one by one."
    )


def effort(subject: Subject, options: Options) -> Effort:
    """Sets without many blocks need little computation, and all share their first blocks."""
    sets = len(chosen_counts(len(subject.net), options["counts"])) * options["draws"]
    return passes(1 + sets / 2, subject.count(options["images"]), subject.at_once) + Effort(seconds=1.0)


def _worded(subject: Subject) -> tuple[str, str]:
    return STAGE.title, f"How does the {subject.measure.words} grow with the number of deleted blocks?"


STAGE = Stage(
    name="deletions",
    title="Deleting several blocks",
    question="How does the error grow with the number of deleted blocks?",
    run=run,
    quick={"images": 200, "counts": 9, "draws": 10},
    full={"images": 1000, "counts": 20, "draws": 50},
    weight=3,
    least={"images": 8, "counts": 4, "draws": 3},
    effort=effort,
    worded=_worded,
)
