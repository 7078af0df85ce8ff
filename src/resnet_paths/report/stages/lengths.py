"""How long the paths are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...nouns import counted
from ...paths import path_lengths
from ...plot import plot_path_lengths
from ..effort import Effort
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import number, percent


def run(subject: Subject, options: Options) -> Section:
    """The exact distribution of path lengths: binomial for a chain of blocks."""
    n = len(subject.net)
    record = path_lengths(subject.net)
    low, high = record.interval(0.95)
    spread = f"{percent(record.share(low, high))} of them pass {low} to {high} branches."
    if record.counts is None:
        without = path_lengths(n, dropped=1)
        reading: tuple[str, ...] = (
            f"A path takes either the branch or the shortcut at each of {counted(n, 'block')}: {record.paths:,} paths "
            f"with mean length {number(record.mean)}. {spread}",
            f"Deleting any one block leaves half of them, {without.paths:,} paths. A network without shortcuts has "
            f"one path, of length {n}, which every deletion cuts.",
        )
    else:
        reading = (
            f"The {n} blocks do not form a chain. Going back from the output, a path takes the branch or the shortcut "
            f"of each block that it meets, and continues to any of the sums that this reads: {record.paths:,} paths "
            f"with mean length {number(record.mean)}. {spread}",
        )
    alt = f"Share of all paths by length: mean {number(record.mean)}, most from {low} to {high}."
    table = Table.of("lengths", "Paths of each length", record.to_pandas())
    values = marks(table, _tip, y="probability", x="length")
    drawn = picture(lambda ax: plot_path_lengths(record, ax), alt, values)
    setup, network = ("", str(n)) if record.counts is None else (subject.setup, "net")
    code = subject.code(f"{setup}print(path_lengths({network}).to_pandas())")
    return Section((Part("Path lengths", reading, drawn, (table,), code),))


def _tip(row: Mapping[str, Any]) -> str:
    paths = counted(int(row["count"]), "path")
    return f"length {row['length']}: {percent(row['probability'])} of all paths ({paths})"


def effort(subject: Subject, options: Options) -> Effort:
    """One picture: the paths are counted, not run."""
    return Effort(seconds=1.0)


STAGE = Stage(
    name="lengths",
    title="How long the paths are",
    question="If all paths counted equally, how many branches would information pass?",
    run=run,
    quick={},
    full={},
    weight=1,
    effort=effort,
)
