"""The importance of each block when it alone is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...imports import first_import
from ...lesion import SingleDeletions, single_deletions
from ...nouns import counted
from ...plot import plot_single_deletions
from ...statistics.proportions import is_share
from ..effort import Effort, passes
from ..measure import Measure
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import block_name, listed


def run(subject: Subject, options: Options) -> Section:
    """The metric after each single deletion, with intervals and a paired test."""
    data, measure = subject.images(options["images"]), subject.measure
    record = single_deletions(subject.fast, data, metric=subject.metric, **subject.study)
    frame = table_of(record)
    order = np.argsort(-record.damage, kind="stable")
    worst, least = int(order[0]), int(order[-1])
    names, value, change = [block_name(name) for name in record.names], measure.value, measure.change
    finding = (
        f"Deleting one block changes the {measure.words} from {value(record.full)} to between "
        f"{value(record.values.min())} and {value(record.values.max())}; {names[worst]} matters most "
        f"({change(record.damage[worst])})."
    )
    constant = subject.constant
    reading = (
        f"{finding} {block_name(record.names[least], begins=True)} matters least ({change(record.damage[least])}"
        + (f": the {measure.words} falls" if record.damage[least] < 0 else "")
        + f"); the median over the blocks is {change(float(np.median(record.damage)))}.",
        _told_apart(frame, record, subject.noun),
        *([] if constant is None else _against_chance(record, measure, constant)),
        *_shape_changes(record, order),
    )
    alt = (
        f"{measure.title} after deleting each of {counted(len(names), 'block')}, with 95 % intervals: highest "
        f"{value(record.values.max())} without {names[worst]}, "
        f"lowest {value(record.values.min())} without {names[least]}; {value(record.full)} without deletion."
    )
    chance = constant if measure.name == "error" else None
    chance = chance if chance is not None and record.high.max() > chance / 3 else None  # else it compresses the rest
    table = Table.of("lesion", f"{measure.title} after deleting one block", frame)
    values = marks(table, lambda row: f"{block_name(row['name'])}: {_interval(row, measure)}", y=measure.name)
    drawn = picture(lambda ax: plot_single_deletions(record, ax, chance=chance), alt, values)
    code = subject.code(
        f"{subject.setup}print(single_deletions(net, {subject.data_code}{subject.metric_code}).to_pandas())"
    )
    part = Part("One block deleted", reading, drawn, (table,), code)
    return Section((part,), (finding,), _warnings(record, subject.noun))


def table_of(record: SingleDeletions, level: float = 0.05) -> pd.DataFrame:
    """The record's table with a paired test of each deletion, corrected for the number of blocks.

    Answers that are right or wrong get McNemar's exact test with Holm's correction. Only those that are right with the
    block and wrong without it, or vice versa, are informative; without an effect, both are equally likely (McNemar
    1947; Holm 1979). For other metrics, a deletion is significant if the interval of its damage does not contain zero
    at a confidence of one minus the level divided by the number of blocks (Bonferroni).
    """
    frame = record.to_pandas()
    if not is_share(record.per_image):
        return frame.assign(significant=_excludes_zero(record, level / len(record.names)))
    with first_import("scipy.stats"):
        from scipy.stats import binomtest  # here: its import takes a second

    whole, without = record.per_image[0], record.per_image[1:]
    frame["newly_wrong"] = ((without > whole).sum(1)).astype(int)
    frame["newly_right"] = ((without < whole).sum(1)).astype(int)
    pairs = zip(frame["newly_wrong"], frame["newly_right"], strict=True)
    frame["p_value"] = [binomtest(int(a), int(a + b)).pvalue if a + b else 1.0 for a, b in pairs]
    frame["significant"] = holm(frame["p_value"].to_numpy(), level)
    return frame


def _excludes_zero(record: SingleDeletions, level: float) -> np.ndarray:
    """Which intervals of the damage do not contain zero; a single example is not informative."""
    if record.per_image.shape[1] < 2:
        return np.zeros(len(record.names), bool)
    low, high = record.damage_interval(1 - level)
    return (low > 0) | (high < 0)


def _interval(row: Mapping[str, Any], measure: Measure) -> str:
    return f"{measure.value(row[measure.name])} ({measure.value(row['low'])} to {measure.value(row['high'])})"


def holm(p_values: np.ndarray, level: float = 0.05) -> np.ndarray:
    """Which of several tests are significant together (Holm 1979).

    Example:
        >>> holm(np.array([0.001, 0.04, 0.02])).tolist()
        [True, True, True]
        >>> holm(np.array([0.001, 0.04, 0.03])).tolist()
        [True, False, False]
    """
    order = np.argsort(p_values, kind="stable")
    limits = level / np.arange(len(p_values), 0, -1)
    passed = np.logical_and.accumulate(p_values[order] <= limits)
    result = np.zeros(len(p_values), bool)
    result[order] = passed
    return result


def _told_apart(frame: pd.DataFrame, record: SingleDeletions, noun: str) -> str:
    certain = [block_name(name) for name in frame.loc[frame["significant"], "name"]]
    examples = counted(record.per_image.shape[1], noun)
    test = (
        "McNemar's exact test on pairs, 5 % level over all blocks"
        if is_share(record.per_image)
        else "95 % intervals of the differences, corrected for the number of blocks"
    )
    if not certain:
        return f"With these {examples}, no deletion has an effect beyond chance ({test})."
    rest = len(record.names) - len(certain)
    text = (
        f"With these {examples}, {counted(len(certain), 'deletion')} {'has' if len(certain) == 1 else 'have'} an "
        f"effect beyond chance: {listed(certain)} ({test})."
    )
    return text + (f" For the other {rest} the difference may be chance." if rest else "")


def _against_chance(record: SingleDeletions, measure: Measure, chance: float) -> list[str]:
    """Which deletions lose half of what the network has learnt; empty for a network that has learnt nothing."""
    if measure.name != "error" and record.full >= chance:
        return []
    half, level = (record.full + chance) / 2, level_of(measure, chance)
    lost = [block_name(name) for name, value in zip(record.names, record.values, strict=True) if value >= half]
    if not lost:
        return [
            f"No single deletion takes the {measure.words} half of the way to {level}: no block is a bottleneck for "
            "all of the information."
        ]
    verb = "it is" if len(lost) == 1 else "they are"
    return [f"Without {listed(lost)} the {measure.words} rises at least half of the way to {level}: {verb} vital."]


def level_of(measure: Measure, chance: float) -> str:
    """What is reached without looking at the inputs, in words."""
    named = "chance" if measure.name == "error" else "that of the best constant answer"
    return f"{named} ({measure.value(chance)})"


def _shape_changes(record: SingleDeletions, order: np.ndarray) -> tuple[str, ...]:
    changing = [index for index, kind in enumerate(record.shortcuts) if kind != "identity"]
    if not changing or len(changing) == len(record.names):
        return ()
    ranks = sorted(int(np.flatnonzero(order == index)[0]) + 1 for index in changing)
    top = ranks == list(range(1, len(ranks) + 1))
    return (
        f"The {counted(len(changing), 'block')} whose shortcut changes the shape rank "
        f"{listed([str(r) for r in ranks])} of {len(record.names)} by damage; Veit et al. (2016, section 4.1) found "
        f"such blocks the most damaging, which {'holds' if top else 'does not hold'} here.",
    )


def _warnings(record: SingleDeletions, noun: str) -> tuple[str, ...]:
    examples = record.per_image.shape[1]
    if examples >= 200:
        return ()
    return (f"Deletions were measured on only {counted(examples, noun)}; most intervals overlap.",)


def effort(subject: Subject, options: Options) -> Effort:
    """Deletions share the network up to the deleted block: half a pass each."""
    return passes(1 + len(subject.net) / 2, subject.count(options["images"]), subject.at_once) + Effort(seconds=1.5)


STAGE = Stage(
    name="lesion",
    title="Deleting one block",
    question="How much worse does the model get when a single block is deleted?",
    run=run,
    quick={"images": 1000},
    full={"images": None},
    weight=6,
    least={"images": 10},
    effort=effort,
)
