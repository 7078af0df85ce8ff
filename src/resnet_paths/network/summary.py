"""How a network prints: a table of its units, in a terminal and in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from ..graph.blocks import Cut, is_entry, owner_of, unit_names
from ..graph.program import Program
from .unit import Unit

if TYPE_CHECKING:
    from ..graph.pieces import Segments
    from .unrolled import UnrolledNetwork

_HEADER = ("index", "name", "shortcut", "post", "branch parameters", "input shape", "droppable")


def describe_units(plan: Segments, shapes: list[tuple[int, ...]] | None = None) -> tuple[Unit, ...]:
    """The public description of each unit."""
    cuts, program, follows = plan.cuts, plan.program, plan.flow.follows
    names = unit_names(cuts, program)
    uses = _module_uses(program)
    units = []
    for index, (cut, name) in enumerate(zip(cuts, names, strict=True)):
        needed = plan.exporting[index]
        units.append(
            Unit(
                index=index,
                name=name,
                owner=owner_of(cut).path,
                shortcut=_shortcut_kind(cut, program),
                post="" if cut.post is cut.add else _operation(cut.post, program),
                branch_parameters=_own_parameters(cut, program, uses, follows),
                entry_shape=shapes[index] if shapes else None,
                droppable=not needed,
                reason="later operations read a value that its branch makes" if needed else "",
            )
        )
    return tuple(units)


def _module_uses(program: Program) -> dict[int, set[fx.Node]]:
    """For each parameter, by identity, the nodes that read it."""
    uses: dict[int, set[fx.Node]] = {}
    for node in program.graph.nodes:
        for parameter in parameters_of(node, program):
            uses.setdefault(id(parameter), set()).add(node)
    return uses


def parameters_of(node: fx.Node, program: Program) -> list[torch.Tensor]:
    """The parameters that an operation of the graph reads: those of its module, or itself."""
    if node.op == "call_module":
        return list(program.model.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        value = program.attribute(str(node.target))
        return [value] if isinstance(value, nn.Parameter) else []
    return []


def _own_parameters(cut: Cut, program: Program, uses: dict[int, set[fx.Node]], follows: set[fx.Node]) -> int:
    inside, todo = set(cut.branch_nodes), list(cut.branch_nodes)
    while todo:  # also what is computed for it alone from parameters (scaled weights) or from other inputs
        for source in todo.pop().all_input_nodes:
            if source not in inside and source not in follows and inside.issuperset(source.users):
                inside.add(source)
                todo.append(source)
    own = {
        id(parameter): parameter.numel()
        for node in inside
        for parameter in parameters_of(node, program)
        if uses[id(parameter)] <= inside
    }
    return sum(own.values())


def _shortcut_kind(cut: Cut, program: Program) -> str:
    if is_entry(cut.shortcut, cut.entry, program):
        return "identity"
    if any(parameter.ndim >= 2 for node in cut.shortcut_nodes for parameter in parameters_of(node, program)):
        return "projection"
    pools = (nn.modules.pooling._AvgPoolNd, nn.modules.pooling._MaxPoolNd, nn.AdaptiveAvgPool2d)
    modules = [program.model.get_submodule(str(node.target)) for node in cut.shortcut_nodes if node.op == "call_module"]
    only_pooling = modules and len(modules) == len(cut.shortcut_nodes)
    return "pooling" if only_pooling and all(isinstance(m, pools) for m in modules) else "parameter-free"


def _operation(node: fx.Node, program: Program) -> str:
    if node.op == "call_module":
        return type(program.model.get_submodule(str(node.target))).__name__.lower()
    return str(getattr(node.target, "__name__", node.target))


def _cells(unit: Unit) -> tuple[str, ...]:
    shape = "x".join(map(str, unit.entry_shape)) if unit.entry_shape else "?"
    drop = "yes" if unit.droppable else f"no: {unit.reason}"
    return (str(unit.index), unit.name, unit.shortcut, unit.post, f"{unit.branch_parameters:,}", shape, drop)


def _title(net: UnrolledNetwork) -> str:
    main = net.segments.flow.main
    along = "" if main is None else f" along {main.target}, the other inputs as given"
    return f"{type(net.model).__name__}: {len(net)} residual units, 2^{len(net)} paths{along}"


def text_table(net: UnrolledNetwork) -> str:
    """The units as aligned text."""
    rows = [_HEADER, *(_cells(unit) for unit in net.units)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    right = {0, 4}
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([_title(net), *lines])


def html_table(net: UnrolledNetwork) -> str:
    """The units as an HTML table."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in _HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(unit)) + "</tr>" for unit in net.units
    )
    title = f"<caption>{escape(_title(net))}</caption>"
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
