"""Give a module its new forward, and delete what that does not need."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from ..arguments import checked
from ..graph.drop_plan import signature_of
from ..graph.drop_sites import not_droppable, plan_sites
from ..graph.forwarded_arguments import Given
from ..graph.pieces import Segments
from ..graph.removed_parts import RemovedParts
from ..graph.rewriting import WrittenForward, written_forward
from ..graph.wrappers import inner_model
from ..network import NotDroppableError, UnrolledNetwork
from .written_class import written_class

Edit = tuple[WrittenForward, list[str]]
"""A new forward, and the names of the blocks that are dropped in it."""


def edits(net: UnrolledNetwork, indices: Sequence[int], plan: Segments | None = None) -> list[Edit]:
    """The forwards to write so that some blocks are gone, inner modules before outer.

    Args:
        net: the network.
        indices: the blocks to drop.
        plan: its graph (None: that of the model's current mode).

    Raises:
        NotDroppableError: a block cannot be dropped.
    """
    plan = plan or net.segments
    plans = plan_sites(plan.program, [plan.cuts[index] for index in indices])
    if isinstance(plans, str):
        stuck = [index for index in indices if not net[index].droppable] or indices
        raise NotDroppableError(not_droppable(plans, [f"{index} ({net[index].name})" for index in stuck]))
    names = {cut.add: block.name for cut, block in zip(plan.cuts, net, strict=True)}
    return [(written_forward(one), [names[cut.add] for cut in one.cuts]) for one in plans]


def give_forward(module: nn.Module, edit: Edit) -> None:
    """Make a module, either the one planned for or a copy of it, run its new forward from now on."""
    written, blocks = edit
    for name, tensor in written.constants.items():
        module.register_buffer(name, tensor.detach().clone(), persistent=False)
    if isinstance(module, fx.GraphModule):
        module.graph = checked_graph(written)
        return
    module.__dict__.pop("forward", None)
    module.__class__ = written_class(written, blocks)
    show_compiled_models(module)


def show_compiled_models(module: nn.Module) -> None:
    """Make compiled models that contain the module notice that it has changed.

    Before it runs compiled code, torch.compile checks that the modules are still those that the code was compiled for.
    If no dictionary of a module has changed, some releases (such as 2.11) assume that its class has not either.
    """
    name = "_resnet_paths_changed"
    module.__dict__[name] = None
    del module.__dict__[name]


def note_dropped(model: nn.Module, blocks: Sequence[str]) -> None:
    """Record in a model which blocks it lacks, so that a checkpoint of it can be loaded."""
    inner_model(model).__dict__[_DROPPED] = (*dropped_in(model), *blocks)


@checked
def dropped_in(model: nn.Module) -> tuple[str, ...]:
    """The names of the blocks that were dropped from a model, whether wrapped or not.

    Example:
        >>> dropped_in(nn.Identity())
        ()
    """
    names: tuple[str, ...] = inner_model(model).__dict__.get(_DROPPED, ())
    return names


_DROPPED = "_dropped_blocks"


def checked_graph(written: WrittenForward) -> fx.Graph:
    """The forward as the graph of a ``GraphModule``, with checks of the arguments that it is valid for."""
    graph = fx.Graph()
    parameters = signature_of(written.plan.site.module).parameters
    copies: dict[fx.Node, fx.Node] = {}
    for node in written.graph.nodes:
        if node.op != "placeholder" and not any(other.op != "placeholder" for other in copies):
            _assert_fixed(graph, written.fixed, copies)
        copies[node] = graph.node_copy(node, copies.__getitem__)
        default = parameters[str(node.target).lstrip("*")].default if node.op == "placeholder" else inspect._empty
        if default is not inspect._empty:
            copies[node].args = (default,)  # type: ignore[assignment]
    return graph


def _assert_fixed(graph: fx.Graph, fixed: dict[str, Any], copies: dict[fx.Node, fx.Node]) -> None:
    """Insert, before all operations, a check of each plain argument whose value they contain."""
    for node, copy in list(copies.items()):
        value = fixed.get(str(node.target), Given)
        if value is None or isinstance(value, (bool, int, float, str)):
            holds = graph.call_function(operator.is_ if value is None else operator.eq, (copy, value))
            message = f"expected {node.target}={value!r}, as in the run that was traced to drop blocks"
            graph.call_function(torch._assert, (holds, message))


def take_out(removed: RemovedParts, counterpart: Callable[[nn.Module], nn.Module]) -> None:
    """Delete submodules, parameters and buffers that nothing needs any more.

    Args:
        removed: what goes, by the modules of the model that was planned for.
        counterpart: maps each of those modules to the one to change.
    """
    for holder, name in removed.modules:
        del counterpart(holder)._modules[name]
    for holder, name in removed.tensors:
        module = counterpart(holder)
        for table in (module._parameters, module._buffers):
            table.pop(name, None)
        module._non_persistent_buffers_set.discard(name)
