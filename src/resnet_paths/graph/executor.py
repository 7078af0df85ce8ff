"""A graph's main output as one function, as fast as it can be without autograd: for sweeps over weights.

`pieces` runs a graph in parts, because gates need the values in between. A loss surface needs none of them, only the
output at thousands of weights. So here everything from the input to the output is one piece that overwrites values
which nobody reads again, and in bfloat16 on a CPU fuses a convolution with the sum and the ReLU after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from . import operations
from .compile_node import Step, Values, step_of
from .dataflow import ancestors
from .fused_convolution import fused_convolution
from .overwrite import NEW_OUTPUT, is_plain_relu, unwatched
from .pieces import Piece, gated_sum
from .program import Program


@dataclass(frozen=True, eq=False)
class _Group:
    """A layer with the sum and the ReLU that follow it, computed together: ``relu(layer(source) + other)``.

    Attributes:
        nodes: the layer, then what follows it, up to the node whose value the group computes.
        source: what the layer reads.
        other: the other term of the sum, if there is one.
        relu: whether the last node is a ReLU.
    """

    nodes: tuple[fx.Node, ...]
    source: fx.Node
    other: fx.Node | None
    relu: bool

    def reads(self) -> set[fx.Node]:
        return {self.source} if self.other is None else {self.source, self.other}


class Whole:
    """The model's main output for one tensor, without autograd.

    Sums and activations run in place where the graph shows that nobody reads the value again; in bfloat16 on a CPU a
    convolution adds and rectifies while it writes its output (one rounding instead of three). In other types the
    numbers equal the model's, bit for bit. Weights are read in each run, so they may change between runs.

    Args:
        program: the graph of a model in its current mode, with all data from one placeholder.

    Attributes:
        known: whether no module is closed, so that the graph shows everything that runs.

    Raises:
        ValueError: the graph reads several inputs.
    """

    def __init__(self, program: Program) -> None:
        needed = ancestors(program.output)
        inputs = [node for node in program.placeholders.values() if node in needed]
        if len(inputs) != 1:
            raise ValueError(f"expected a graph with one input, got {len(inputs)}")
        (self._input,) = inputs
        self._output = program.output
        self.known = not program.opaque
        self._modules = tuple(program.model.modules())
        run = [node for node in program.graph.nodes if node in needed and node.op not in ("placeholder", "output")]
        given, gives = frozenset([self._input]), frozenset([self._output])
        steps = tuple((node, step, tuple(done)) for node, step, done in _steps(run, program, given | gives))
        self._piece = Piece(steps, given, gives)

    def runs(self) -> bool:
        """Whether it may be used now: no autograd, and no hooks, which could keep an overwritten value."""
        return not torch.is_grad_enabled() and unwatched(self._modules)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The output, (batch, ...).

        Raises:
            RuntimeError: autograd is on, or a module has hooks; see `runs`.
        """
        if not self.runs():
            raise RuntimeError(
                "expected autograd off and no hooks, since values are overwritten; run the model itself instead"
            )
        values: Values = {self._input: x}
        self._piece.run(values)
        output: torch.Tensor = values[self._output]
        return output


def _steps(
    run: list[fx.Node], program: Program, pinned: frozenset[fx.Node]
) -> Iterator[tuple[fx.Node, Step, list[fx.Node]]]:
    """For each value its node, how to compute it, and the values that can be freed after it."""
    order = {node: position for position, node in enumerate(run)}
    groups = {group.nodes[-1]: group for group in _groups(order, program, pinned)}
    inside = {node for group in groups.values() for node in group.nodes[:-1]}
    computed = [node for node in run if node not in inside]
    reads = {node: groups[node].reads() if node in groups else set(node.all_input_nodes) for node in computed}
    last = {source: position for position, node in enumerate(computed) for source in reads[node]}
    for position, node in enumerate(computed):
        done = [source for source in reads[node] if last[source] == position]
        if node not in groups:
            yield node, step_of(node, program, pinned), done
            continue
        group = groups[node]
        other = group.other
        free = other in done and other is not group.source and _is_new(other, program, pinned, groups)
        yield node, _group_step(group, program, free), done


def _groups(order: dict[fx.Node, int], program: Program, pinned: frozenset[fx.Node]) -> Iterator[_Group]:
    """What can be computed together: first groups that end in a ReLU, which fuse the most, then the other sums."""
    grouped: set[fx.Node] = set()
    for relu in (True, False):
        for node in order:
            if node in grouped or not (is_plain_relu(node, program) if relu else operations.is_add(node)):
                continue
            group = _ending_in(node, relu, order, program, pinned | grouped)
            if group is not None:
                grouped.update(group.nodes)
                yield group


def _ending_in(
    node: fx.Node, relu: bool, order: dict[fx.Node, int], program: Program, kept: frozenset[fx.Node]
) -> _Group | None:
    summed: Any = node.args[0] if relu else node
    after = (node,) if relu else ()
    if not isinstance(summed, fx.Node):
        return None
    if not operations.is_add(summed):
        chain = _from_layer(summed, order, program, kept)
        return _Group((*chain, *after), chain[0].args[0], None, relu) if chain else None  # type: ignore[arg-type]
    if relu and (len(summed.users) != 1 or summed in kept):
        return None
    terms = summed.args
    if len(terms) != 2 or not all(isinstance(term, fx.Node) for term in terms) or terms[0] is terms[1]:
        return None
    chains = [(_from_layer(term, order, program, kept), other) for term, other in (terms, terms[::-1])]
    # The later layer: a group runs where its last node stood, so the earlier one would wait for the sum and keep its
    # input alive until then.
    chain, other = max(chains, key=lambda pair: order[pair[0][0]] if pair[0] else -1)
    return _Group((*chain, summed, *after), chain[0].args[0], other, relu) if chain else None  # type: ignore[arg-type]


def _from_layer(node: Any, order: dict[fx.Node, int], program: Program, kept: frozenset[fx.Node]) -> list[fx.Node]:
    """The layer that a value comes from, with the identities after it; empty if the value is read elsewhere."""
    chain: list[fx.Node] = []
    while isinstance(node, fx.Node) and node in order and node not in kept and len(node.users) == 1:
        chain.insert(0, node)
        module = _module_of(node, program)
        if isinstance(module, NEW_OUTPUT) and len(node.args) == 1 and not node.kwargs:
            return chain
        if not isinstance(module, nn.Identity):
            return []
        node = node.args[0]
    return []


def _is_new(node: fx.Node, program: Program, pinned: frozenset[fx.Node], groups: dict[fx.Node, _Group]) -> bool:
    """Whether a value has its own storage, read only by layers and one other operation."""
    if sum(not isinstance(_module_of(user, program), NEW_OUTPUT) for user in node.users) > 1:
        return False
    while node not in pinned:
        module = _module_of(node, program)
        if node in groups or operations.is_add(node) or isinstance(module, NEW_OUTPUT):
            return True
        before = node.args[0] if isinstance(module, nn.Identity) else None
        if not isinstance(before, fx.Node) or len(before.users) != 1:
            return False
        node = before
    return False


def _group_step(group: _Group, program: Program, free: bool) -> Step:
    layer = _module_of(group.nodes[0], program)
    source, other, relu = group.source, group.other, group.relu

    def call(values: Values) -> torch.Tensor:
        x: torch.Tensor = values[source]
        term: Any = None if other is None else values[other]
        fused = fused_convolution(layer, x, term, relu=relu, overwrite=free)
        if fused is not None:
            return fused
        value: torch.Tensor = layer(x)  # type: ignore[misc]
        if other is not None:
            value = gated_sum(term, value, 1.0, overwrite=True) if isinstance(term, torch.Tensor) else value + term
        return value.relu_() if relu else value

    return call


def _module_of(node: fx.Node, program: Program) -> nn.Module | None:
    return program.module(str(node.target)) if node.op == "call_module" else None
