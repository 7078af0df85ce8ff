"""The model as unrolled blocks."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from ...nouns import counted
from ...tradeoff import count_parameters
from ..effort import Effort
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import listed, percent, power

_KINDS = {
    "identity": "the input unchanged",
    "pooling": "a change of shape by pooling",
    "parameter-free": "a change of shape without weights, such as added zeros",
    "projection": "a change of shape by a learned layer",
    "none": "no shortcut",
}


def run(subject: Subject, options: Options) -> Section:
    """The table of blocks: types of shortcuts, parameters, and which blocks cannot be dropped."""
    net = subject.net
    rows = [
        {
            "block": block.index,
            "name": block.name,
            "shortcut": block.shortcut,
            "post": block.post,
            "branch_parameters": block.branch_parameters,
            "input_shape": "x".join(map(str, block.entry_shape or ())),
            "droppable": block.droppable,
        }
        for block in net
    ]
    kinds = Counter(block.shortcut for block in net)
    total, inside = count_parameters(subject.model), sum(block.branch_parameters for block in net)
    fixed = [block.name for block in net if not block.droppable]
    finding = f"The model is a stem, {counted(len(net), 'residual block')} and a head: {power(2, len(net))} paths."
    reading = [
        finding,
        "A block computes shortcut(x) + branch(x). Shortcuts: "
        + "; ".join(f"{count} {kind} ({_KINDS[kind]})" for kind, count in kinds.most_common())
        + ".",
        f"The branches hold {percent(inside / total) if total else 'none'} of the {counted(total, 'parameter')}, "
        "the most that dropping can save.",
    ]
    if fixed:
        reading.append(f"{counted(len(fixed), 'block')} cannot be dropped: {listed(fixed)} ({net[fixed[0]].reason}).")
    table = Table.of("blocks", "Blocks, from the input to the output", pd.DataFrame(rows))
    code = subject.code(f"{subject.setup}print(net)")
    return Section((Part("Residual blocks", tuple(reading), tables=(table,), code=code),), (finding,))


def effort(subject: Subject, options: Options) -> Effort:
    """Next to none: the network is unrolled already."""
    return Effort(seconds=0.1)


STAGE = Stage(
    name="blocks",
    title="The model as unrolled blocks",
    question="Which residual blocks does the model have, and what are their shortcuts?",
    run=run,
    quick={},
    full={},
    weight=1,
    effort=effort,
)
