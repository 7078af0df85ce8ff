"""How long the paths are."""

from __future__ import annotations

from ...paths import path_lengths
from ...plot import plot_path_lengths
from ..pictures import picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import number, percent


def run(subject: Subject, options: Options) -> Section:
    """The binomial distribution of path lengths, exactly."""
    n = len(subject.net)
    record = path_lengths(n)
    low, high = record.interval(0.95)
    without = path_lengths(n, dropped=1)
    reading = (
        f"A path takes either the branch or the shortcut at each of {n} units: {record.paths:,} paths, of mean length "
        f"{number(record.mean)}. {percent(record.share(low, high))} of them pass {low} to {high} branches.",
        f"Deleting any one unit leaves {without.paths:,} paths, one half. A network without shortcuts has one path, of "
        f"length {n}, which every deletion cuts.",
    )
    alt = f"Share of all 2^{n} paths by length: a bell around {number(record.mean)}, most from {low} to {high}."
    drawn = picture(lambda ax: plot_path_lengths(record, ax), alt)
    table = Table.of("lengths", "Paths of each length", record.to_pandas())
    code = subject.code(f"print(path_lengths({n}).to_pandas())")
    return Section((Part("Path lengths", reading, drawn, (table,), code),))


STAGE = Stage(
    name="lengths",
    title="How long the paths are",
    question="If every path counted alike, how many branches would information pass?",
    run=run,
    quick={},
    full={},
    weight=0.2,
)
