"""The importance of each block when it alone is deleted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...imports import first_import
from ...lesion import SingleDeletions, single_deletions
from ...plot import plot_single_deletions
from ..effort import Effort, passes
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import counted, listed, percent, points


def run(subject: Subject, options: Options) -> Section:
    """Error after each single deletion, with intervals and a paired test."""
    data = subject.images(options["images"])
    record = single_deletions(subject.fast, data, **subject.study)
    frame = table_of(record)
    order = np.argsort(-record.damage, kind="stable")
    worst, least = int(order[0]), int(order[-1])
    certain = frame.loc[frame["significant"], "name"].tolist()
    names = record.names
    found = (
        f"Deleting one block changes the error from {percent(record.full)} to between {percent(record.values.min())} "
        f"and {percent(record.values.max())}; {names[worst]} matters most ({points(record.damage[worst])})."
    )
    reading = (
        f"{found} {names[least]} matters least ({points(record.damage[least])}"
        + (": the error falls" if record.damage[least] < 0 else "")
        + f"); the median over the blocks is {points(float(np.median(record.damage)))}.",
        _told_apart(certain, record),
        _against_chance(record, subject.chance),
        *_shape_changes(record, order),
    )
    alt = (
        f"Error after deleting each of {len(names)} blocks, with 95 % intervals: highest "
        f"{percent(record.values.max())} without {names[worst]}, "
        f"lowest {percent(record.values.min())} without {names[least]}; {percent(record.full)} without deletion."
    )
    chance = subject.chance if record.high.max() > subject.chance / 3 else None  # else it would press the rest flat
    table = Table.of("lesion", "Error after deleting one block", frame)
    values = marks(table, lambda row: f"{row['name']}: {_interval(row['error'], row['low'], row['high'])}", y="error")
    drawn = picture(lambda ax: plot_single_deletions(record, ax, chance=chance), alt, values)
    made = subject.expressions
    code = subject.code(f"net = unroll({made.model})\nprint(single_deletions(net, {made.data}).to_pandas())")
    return Section((Part("One block deleted", reading, drawn, (table,), code),), (found,), _warnings(record))


def table_of(record: SingleDeletions, level: float = 0.05) -> pd.DataFrame:
    """The record's table with McNemar's exact test of each deletion, Holm's correction over the blocks.

    Only images that are right with the block and wrong without it, or vice versa, are informative. Without an effect,
    both are equally likely (McNemar 1947; Holm 1979).
    """
    with first_import("scipy.stats"):
        from scipy.stats import binomtest  # here: its import takes a second

    frame = record.to_pandas()
    whole, without = record.per_image[0], record.per_image[1:]
    frame["newly_wrong"] = ((without > whole).sum(1)).astype(int)
    frame["newly_right"] = ((without < whole).sum(1)).astype(int)
    pairs = zip(frame["newly_wrong"], frame["newly_right"], strict=True)
    frame["p_value"] = [binomtest(int(a), int(a + b)).pvalue if a + b else 1.0 for a, b in pairs]
    frame["significant"] = holm(frame["p_value"].to_numpy(), level)
    return frame


def _interval(value: float, low: float, high: float) -> str:
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


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


def _told_apart(certain: list[str], record: SingleDeletions) -> str:
    count, images = len(record.names), record.per_image.shape[1]
    if not certain:
        return (
            f"With these {images} images, no deletion has an effect beyond chance (McNemar's exact test on pairs, 5 % "
            "level over all blocks)."
        )
    rest = count - len(certain)
    text = (
        f"With these {images} images {counted(len(certain), 'deletion')} {'has' if len(certain) == 1 else 'have'} an "
    )
    text += f"effect beyond chance: {listed(certain)} (McNemar's exact test on pairs, 5 % level over all blocks)."
    return text + (f" For the other {rest} the difference may be chance." if rest else "")


def _against_chance(record: SingleDeletions, chance: float) -> str:
    half = (record.full + chance) / 2
    lost = [name for name, value in zip(record.names, record.values, strict=True) if value >= half]
    if not lost:
        return (
            f"No single deletion takes the error half of the way to chance ({percent(chance)}): no block is a "
            "bottleneck for all of the information."
        )
    verb = "it is" if len(lost) == 1 else "they are"
    return (
        f"Without {listed(lost)} the error rises at least half of the way to chance ({percent(chance)}): {verb} vital."
    )


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


def _warnings(record: SingleDeletions) -> tuple[str, ...]:
    images = record.per_image.shape[1]
    if images >= 200:
        return ()
    return (f"Deletions were measured on only {counted(images, 'image')}; most intervals overlap.",)


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
