"""The model as unrolled units."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from ...tradeoff import count_parameters
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import counted, listed, percent

_KINDS = {
    "identity": "the input as it is",
    "pooling": "a change of shape by pooling",
    "parameter-free": "a change of shape without weights, such as added zeros",
    "projection": "a change of shape by a learned layer",
    "none": "no shortcut",
}


def run(subject: Subject, options: Options) -> Section:
    """The table of units; what the shortcuts are, where the parameters are, what cannot be dropped."""
    net = subject.net
    rows = [
        {
            "unit": unit.index,
            "name": unit.name,
            "shortcut": unit.shortcut,
            "post": unit.post,
            "branch_parameters": unit.branch_parameters,
            "input_shape": "x".join(map(str, unit.entry_shape or ())),
            "droppable": unit.droppable,
        }
        for unit in net
    ]
    kinds = Counter(unit.shortcut for unit in net)
    total, inside = count_parameters(subject.model), sum(unit.branch_parameters for unit in net)
    fixed = [unit.name for unit in net if not unit.droppable]
    found = f"The model is a stem, {counted(len(net), 'residual unit')} and a head: 2^{len(net)} paths."
    reading = [
        found,
        "A unit computes shortcut(x) + branch(x). Shortcuts: "
        + "; ".join(f"{count} {kind} ({_KINDS[kind]})" for kind, count in kinds.most_common())
        + ".",
        f"The branches hold {percent(inside / total) if total else 'none'} of the {counted(total, 'parameter')}; that "
        "is the most that dropping can save.",
    ]
    if fixed:
        reading.append(f"{counted(len(fixed), 'unit')} cannot be dropped: {listed(fixed)} ({net[fixed[0]].reason}).")
    table = Table.of("units", "Units, input side first", pd.DataFrame(rows))
    code = subject.code(f"net = unroll({subject.model_code})\nprint(net)")
    return Section((Part("Residual units", tuple(reading), tables=(table,), code=code),), (found,))


STAGE = Stage(
    name="units",
    title="The model as unrolled units",
    question="Which blocks add their result to their input, and how?",
    run=run,
    quick={},
    full={},
    weight=0.2,
)
