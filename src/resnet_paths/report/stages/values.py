"""What each block is worth when any of the others may be missing too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from ...lesion import BlockValues, block_values
from ...plot import plot_block_values, plot_interactions
from ..pictures import picture
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import counted, listed, number


def run(subject: Subject, options: Options) -> Section:
    """Shapley values of all blocks, and exact interactions of the most valuable ones."""
    net = subject.net
    if len(net) < 2:
        raise NotApplicableError(f"a network of {counted(len(net), 'unit')} has no game to play")
    data = subject.images(options["images"])
    common: dict[str, Any] = {"batch_size": subject.batch_size, "progress": False, "seed": subject.seed}
    record = block_values(net, data, most_permutations=options["permutations"], **common)
    alone = block_values(net, data, method="leave-one-out", **common)
    players = sorted(np.argsort(record.values, kind="stable")[: options["players"]].tolist())
    pairs = block_values(net, data, units=players, interactions=True, **common)
    values, found = _values(record, alone)
    return Section((values, _interactions(pairs)), (found,), _warnings(record, options["permutations"]))


def _values(record: BlockValues, alone: BlockValues) -> tuple[Part, str]:
    order = np.argsort(record.values, kind="stable")
    best = [record.names[index] for index in order[:3]]
    found = f"By Shapley value {listed(best)} lower the loss most ({number(-record.values[order[0]])} by {best[0]})."
    harmful = [
        name
        for name, value, error in zip(record.names, record.values, record.standard_errors, strict=True)
        if value > 2 * error and value > 0
    ]
    rank = float(spearmanr(record.values, alone.values).statistic)
    reading = (
        f"Adding blocks one by one in random order takes the loss from {number(record.empty)} (none) to "
        f"{number(record.whole)} (all); a block's value is its mean part in that. {found}",
        f"The ranking agrees with that of single deletions by a rank correlation of {number(rank)}: "
        + (
            "much the same blocks matter." if rank > 0.8 else "what a block is worth depends on which others are there."
        ),
        f"Blocks that raise the loss, by more than two standard errors: {listed(harmful)}.",
    )
    alt = (
        f"Shapley values of {len(record.names)} blocks with standard errors: {best[0]} lowers the loss most, "
        f"{record.names[order[-1]]} least."
    )
    frame = record.to_pandas().assign(leave_one_out=alone.values)
    drawn = picture(lambda ax: plot_block_values(record, ax), alt)
    how = "all coalitions" if record.exhaustive else f"{counted(record.coalitions, 'coalition')} sampled"
    return Part("Values", reading, drawn, (Table.of("block_values", f"Cross-entropy (nats), {how}", frame),)), found


def _interactions(record: BlockValues) -> Part:
    if record.interactions is None:
        raise RuntimeError("expected interactions")
    n = len(record.names)
    rows = [
        {"one": record.names[i], "other": record.names[j], "interaction": record.interactions[i, j]}
        for i in range(n)
        for j in range(i)
    ]
    frame = pd.DataFrame(rows)
    low, high = (frame.iloc[int(place)] for place in (frame["interaction"].argmin(), frame["interaction"].argmax()))
    reading = [
        f"Among the {n} most valuable blocks (all 2^{n} coalitions, the other blocks kept), a positive interaction of "
        "the loss means that two blocks can stand in for each other, a negative one that they need each other."
    ]
    if high["interaction"] > 0:
        reading.append(f"Most redundant: {high['one']} and {high['other']} ({number(float(high['interaction']))}).")
    if low["interaction"] < 0:
        reading.append(f"Most dependent: {low['one']} and {low['other']} ({number(float(low['interaction']))}).")
    alt = (
        f"Pairwise interactions of {n} blocks: highest between {high['one']} and {high['other']}, lowest between "
        f"{low['one']} and {low['other']}."
    )
    drawn = picture(lambda ax: plot_interactions(record, ax), alt, wide=(6.0, 4.6), narrow=(4.4, 3.6))
    return Part("Interactions", tuple(reading), drawn, (Table.of("interactions", "Pairs", frame),))


def _warnings(record: BlockValues, permutations: int) -> tuple[str, ...]:
    largest = float(np.abs(record.values).max())
    worst = float(record.standard_errors.max())
    if record.exhaustive or worst <= 0.1 * largest:
        return ()
    return (
        f"Shapley values were sampled from {permutations} orders; the largest standard error is {number(worst)}, the "
        f"largest value {number(largest)}. Ranks of blocks with close values are not settled. "
        "--budget full samples more.",
    )


STAGE = Stage(
    name="values",
    title="Value of each block, and interactions",
    question="What is a block worth when any of the others may be missing, and which blocks depend on each other?",
    run=run,
    quick={"images": 100, "permutations": 16, "players": 7},
    full={"images": 400, "permutations": 200, "players": 12},
    weight=6,
)
