"""How a network is displayed: a table of its blocks, in a terminal and in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from ..graph.blocks import Cut, block_names, is_entry, owner_of, parameters_of
from ..graph.drop_sites import Droppable
from ..graph.opaque_modules import opaque_modules
from ..graph.program import Program
from ..graph.removed_parts import Holdings
from ..imports import first_import
from ..nouns import counted
from .block import Block

if TYPE_CHECKING:
    from ..graph.pieces import Segments
    from .unrolled import UnrolledNetwork

_HEADER = ("index", "name", "shortcut", "post", "branch parameters", "input shape", "droppable")
_NUMBERS = {0, 4}  # columns of them


def describe_blocks(plan: Segments) -> tuple[Block, ...]:
    """The public description of each block; its entries on dropping come from the plans that `drop_blocks` follows."""
    cuts, program = plan.cuts, plan.program
    names = block_names(cuts, program)
    droppable, holdings = Droppable(program, cuts, plan.needs), Holdings(program)
    read = {node: parameters_of(node, program) for node in plan.needs.needed}
    uses = _parameter_uses(read)
    blocks = []
    for index, (cut, name) in enumerate(zip(cuts, names, strict=True)):
        drop = droppable.plan(cut)
        reason = drop if isinstance(drop, str) else ""
        blocks.append(
            Block(
                index=index,
                name=name,
                owner=owner_of(cut).path,
                shortcut=_shortcut_kind(cut, program),
                post="" if cut.post is cut.add else _operation(cut.post, program),
                branch_parameters=_branch_parameters(plan.needs.left_without(cut), read, uses)
                if isinstance(drop, str) or drop is None
                else holdings.parameters(holdings.removed([drop])),
                droppable=not reason,
                reason=reason,
            )
        )
    return tuple(blocks)


def _parameter_uses(read: dict[fx.Node, list[nn.Parameter]]) -> dict[int, set[fx.Node]]:
    """For each parameter, by identity, the nodes that read it."""
    uses: dict[int, set[fx.Node]] = {}
    for node, parameters in read.items():
        for parameter in parameters:
            uses.setdefault(id(parameter), set()).add(node)
    return uses


def _branch_parameters(
    inside: set[fx.Node], read: dict[fx.Node, list[nn.Parameter]], uses: dict[int, set[fx.Node]]
) -> int:
    """The number of parameters that only a block's branch reads."""
    sizes = {
        id(parameter): parameter.numel() for node in inside for parameter in read[node] if uses[id(parameter)] <= inside
    }
    return sum(sizes.values())


def _shortcut_kind(cut: Cut, program: Program) -> str:
    if is_entry(cut.shortcut, cut.entry, program):
        return "identity"
    if any(parameter.ndim >= 2 for node in cut.shortcut_nodes for parameter in parameters_of(node, program)):
        return "projection"
    pools = (nn.modules.pooling._AvgPoolNd, nn.modules.pooling._MaxPoolNd, nn.AdaptiveAvgPool2d)
    modules = [program.module(str(node.target)) for node in cut.shortcut_nodes if node.op == "call_module"]
    only_pooling = modules and len(modules) == len(cut.shortcut_nodes)
    return "pooling" if only_pooling and all(isinstance(m, pools) for m in modules) else "parameter-free"


def _operation(node: fx.Node, program: Program) -> str:
    if node.op == "call_module":
        return type(program.module(str(node.target))).__name__.lower()
    return str(getattr(node.target, "__name__", node.target))


def _cells(block: Block) -> tuple[str, ...]:
    shape = "x".join(map(str, block.entry_shape)) if block.entry_shape else "?"
    drop = "yes" if block.droppable else f"no: {block.reason}"
    return (str(block.index), block.name, block.shortcut, block.post, f"{block.branch_parameters:,}", shape, drop)


def _title(net: UnrolledNetwork) -> str:
    plan = net.segments
    along = f" along {plan.main.target} (other inputs fixed)" if len(plan.inputs) > 1 and plan.main else ""
    paths = f", 2^{len(net)} paths" if plan.is_chain else ", not a single chain"
    return f"{type(net.model).__name__}: {counted(len(net), 'residual block')}{paths}{along}"


def text_table(net: UnrolledNetwork) -> str:
    """The blocks as aligned text."""
    rows = [_HEADER, *(_cells(block) for block in net.blocks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([_title(net), *lines, *_not_traced(net)])


def rich_table(net: UnrolledNetwork) -> Any:
    """The blocks for a terminal, with whole names at every width."""
    with first_import("rich"):
        from rich.markup import escape as plain

        from ..text_tables import table

    made = table(plain(_title(net)))
    for column, head in enumerate(_HEADER):
        made.add_column(head, justify="right" if column in _NUMBERS else "left")
    for block in net.blocks:
        made.add_row(*map(plain, _cells(block)))
    made.caption = plain("\n".join(_not_traced(net))) or None
    return made


def _not_traced(net: UnrolledNetwork) -> list[str]:
    """One line on closed modules, whose blocks are not in the table."""
    closed = opaque_modules(net.model, net.opaque)
    advice = "; pass example_input to trace inside them" if net._example is None else ""
    return [f"not traced: {', '.join(closed)}{advice}"] if closed else []


def html_table(net: UnrolledNetwork) -> str:
    """The blocks as an HTML table."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in _HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(block)) + "</tr>" for block in net.blocks
    )
    title = f"<caption>{escape('. '.join([_title(net), *_not_traced(net)]))}</caption>"
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
