"""The unrolled network: a stem, a sequence of residual blocks and a head, evaluated at gates.

This is the one object that all analyses are functions of. It holds no copy of the model: pieces of the graph read the
model's weights when they run. The graph depends on the train flags of the modules (dropout, batch norm), so there is
one plan of pieces per combination of flags, made when first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..arguments.shown import shown
from ..graph import operations
from ..graph.blocks import Cut, Refusal, find_blocks, follow_output, learned_starts
from ..graph.compile_node import Values
from ..graph.dataflow import DataFlow, data_nodes
from ..graph.errors import UnrollError
from ..graph.inputs import bind, call_model, check_constants, named, relative_difference
from ..graph.outputs import output_at
from ..graph.overwrite import unwatched
from ..graph.pieces import Segments, gated_sum
from ..graph.preserve import preserved
from ..graph.program import Program, first_difference, first_node
from ..graph.sums import put_back, unify_sums
from ..graph.tuples import read_items_directly
from .block import Block, BlockRef, resolve, resolve_all
from .gate_rows import Evaluations, evaluate_rows
from .summary import describe_blocks, html_table, rich_table, text_table

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
"""Relative differences between network and model that rounding explains: sums in another order, on any device."""

Output = str | int | tuple[int | str, ...] | None
Shapes = tuple[tuple[int, ...], ...]
Gates = torch.Tensor | Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True, eq=False)
class State:
    """An evaluation stopped between two blocks: everything that the rest of the network needs.

    Attributes:
        index: the next block (n: none, and `value` is the output).
        value: the value that enters the next block.
        side: further values that later operations read (sizes, arguments of hooks).
        plan: the graph in the mode in which the evaluation started (None: the model's current mode).
    """

    index: int
    value: torch.Tensor
    side: Values = field(default_factory=dict, repr=False)
    plan: Segments | None = field(default=None, repr=False)


class UnrolledNetwork:
    """A residual model as a stem, n blocks ``post(shortcut(x) + g * branch(x))`` and a head.

    Evaluated at a gate vector g in R^n: ``g = 1`` is the model, ``g_i = 0`` deletes block i, and values in
    between interpolate (Veit, Wilber and Belongie 2016, sections 3 and 4). Created by :func:`resnet_paths.unroll`.
    The network uses the model itself, in its current mode; nothing is copied.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> model = torchvision.models.resnet18().eval()
        >>> net = unroll(model)
        >>> len(net), net[-1].name
        (8, 'layer4.1')
        >>> x = torch.randn(2, 3, 32, 32)
        >>> torch.equal(net(x), model(x))
        True
        >>> net(x, torch.ones(3, 8)).shape
        torch.Size([3, 2, 1000])
    """

    def __init__(
        self,
        model: nn.Module,
        front_end: Callable[[], Program],
        example_input: Any = None,
        *,
        output: Output = None,
        overwrite: bool = False,
    ) -> None:
        self.model = model
        self.output = output
        self._front_end, self.overwrites = front_end, overwrite
        self._example = example_input
        self._exchanged = False  # whether modules were replaced after the forward was followed
        self._plans: dict[tuple[bool, ...], Segments] = {}
        self._held: set[Shapes] = set()  # shapes for which a recording is known to be valid
        program = front_end()
        cuts, self.refusals = self._plan(program)
        self.front_end, self.output_path = program.front_end, program.output_path
        self.follows_main_output = program.output is first_node(program.root.output)
        self.opaque = dict(program.opaque)
        self.concatenations = sum(operations.is_concatenation(node) for node in program.graph.nodes)
        self._blocks = describe_blocks(self.segments) if cuts else ()

    # structure

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks, input side first."""
        return self._blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def __getitem__(self, reference: BlockRef) -> Block:
        return self._blocks[resolve(self._blocks, reference)]

    def index(self, reference: BlockRef) -> int:
        """The index of a block given by index (also negative) or name."""
        return resolve(self._blocks, reference)

    def indices(self, references: Sequence[BlockRef] | BlockRef) -> list[int]:
        """The indices of several blocks; each may be given once."""
        return resolve_all(self._blocks, references)

    def __repr__(self) -> str:
        return text_table(self)

    def _repr_html_(self) -> str:
        return html_table(self)

    def __rich__(self) -> Any:
        return rich_table(self)

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(UnrolledNetwork, output=self.output, overwrite=self.overwrites)
        given = self.model, self._front_end, self._example  # it was compared with the model when it was made
        if self._exchanged and first_difference(self.segments.program, make(*given).segments.program) is not None:
            raise UnrollError(
                "expected a network that unrolling its model gives again, got one whose forward depends on modules "
                "that were replaced in its copy of the model; pickle the original network instead"
            )
        return make, given

    def on_copy(
        self, model: nn.Module, exchanged: Collection[str] = (), *, overwrite: bool = False
    ) -> UnrolledNetwork | None:
        """The network over a copy of its model, without unrolling the copy; None if its graph may differ.

        Args:
            model: the copy.
            exchanged: names of modules that may have another class or other tensors than in the model.
            overwrite: whether evaluations may overwrite values that nobody else reads.

        Cost: a third of unrolling the copy without an example, a tenth of it with one.
        """
        if not isinstance(self._front_end, partial):  # it might not take another model
            return None
        plan = self.segments.on_copy(model, exchanged, overwrite=overwrite)
        if plan is None:
            return None
        net = object.__new__(UnrolledNetwork)
        net.__dict__.update(self.__dict__)
        net.model, net.overwrites, net._exchanged = model, overwrite, bool(exchanged)
        net._front_end = partial(self._front_end.func, model, *self._front_end.args[1:])
        net._plans, net._held = {net._modes(): plan}, set(self._held)
        return net

    # plans, one per combination of train flags

    def _modes(self) -> tuple[bool, ...]:
        return tuple(module.training for module in self.model.modules())

    def _plan(self, program: Program) -> tuple[list[Cut], list[Refusal]]:
        read_items_directly(program)
        carries = data_nodes(program)
        fused = unify_sums(program.graph, carries)
        flow = DataFlow(program, learned_starts(program, carries))
        cuts, refusals = find_blocks(program, flow)
        sums = {cut.add for cut in cuts}
        if no_blocks := [operation for operation in fused if operation.added not in sums]:
            names = {operation.added.name for operation in no_blocks}
            reasons = [refusal for refusal in refusals if refusal.operation in names]
            put_back(program.graph, no_blocks)
            flow = DataFlow(program, learned_starts(program, data_nodes(program)))
            cuts, refusals = find_blocks(program, flow)
            refusals += [
                reason for reason in reasons if reason.operation not in {other.operation for other in refusals}
            ]
        self.other_sums = sorted(
            {name for node in flow.carries if (name := operations.sums_otherwise(node, flow.carries))}
        )
        cuts, beside = follow_output(program, flow, cuts, self.output)
        if cuts:
            self._plans[self._modes()] = Segments(program, flow, cuts, overwrite=self.overwrites)
        return cuts, [*refusals, *beside]

    @property
    def segments(self) -> Segments:
        """The graph cut at the blocks, for the model's current mode (traced again for a mode not seen before)."""
        plan = self._plans.get(self._modes())
        if plan is None:
            cuts, _ = self._plan(self._front_end())
            if len(cuts) != len(self):
                raise UnrollError(
                    f"expected the same {len(self)} blocks after the model's train flags changed, got "
                    f"{len(cuts)}; call unroll again in the mode in which you use the network"
                )
            plan = self._plans[self._modes()]
        return plan

    # evaluation, piece by piece

    def stem(self, x: Any) -> State:
        """Everything before the first block.

        Args:
            x: the model's input: a tensor, a tuple of positional or a dict of keyword arguments.
        """
        return self._begin(*self.bind(x))

    def bind(self, x: Any) -> tuple[Segments, Values]:
        """The graph in the model's current mode, and an input as values of its placeholders.

        Raises:
            UnrollError: an input is missing, an argument differs from the value that the graph was made for, a Python
                value that the graph holds as a constant has changed, or a recording is not valid for this shape.
        """
        plan, values = self._bind(x)
        if self.front_end == "record":
            self._check_recorded(x, values)
        return plan, values

    def _bind(self, x: Any) -> tuple[Segments, Values]:
        plan = self.segments
        plan.program.check_unchanged()
        x = named(self.model, plan.inputs, x)
        check_constants(self.model, plan.program.placeholders, x, self._example)
        return plan, bind(plan.inputs, x)

    def _begin(self, plan: Segments, values: Values) -> State:
        plan.stem.run(values)
        return self._state(0, values, plan)

    def shortcut(self, state: State) -> torch.Tensor:
        """The shortcut of the next block at a state."""
        plan = state.plan or self.segments
        piece = plan.shortcuts[state.index]
        if piece is None:
            return state.value
        values = self._values(state, plan)
        piece.run(values)
        value: torch.Tensor = values[plan.cuts[state.index].shortcut]
        return value

    def branch(self, state: State) -> torch.Tensor:
        """The branch of the next block at a state (the sum of its parallel branches, if there are several)."""
        plan = state.plan or self.segments
        cut = plan.cuts[state.index]
        values = self._values(state, plan)
        plan.branches[state.index].run(values)
        total: torch.Tensor = values[cut.branch[0]]
        for other in cut.branch[1:]:
            total = total + values[other]
        return total

    def inside(self, state: State, *, branch: bool = True) -> Values:
        """All values in the next block's shortcut and branch at a state, and those that they read, by graph node.

        Args:
            state: the state at the block's entry.
            branch: whether to run the branch too.
        """
        plan = state.plan or self.segments
        values = self._values(state, plan)
        shortcut = plan.shortcuts[state.index]
        for piece in (shortcut, plan.branches[state.index] if branch else None):
            if piece is not None:
                piece.run_all(values)
        return values

    def join(self, state: State, total: torch.Tensor, *, overwrite: bool = False, partial: bool = False) -> State:
        """From the next block's sum, ``shortcut + g * branch``, to the state before the block after it.

        Args:
            state: the state at the block's entry.
            total: the sum.
            overwrite: whether an in-place activation may overwrite `total` (only in copies made for inference).
            partial: whether earlier blocks may have been skipped; operations that read their sums are then left out.
        """
        plan = state.plan or self.segments
        values = self._values(state, plan)
        values[plan.cuts[state.index].add] = total
        piece = (plan.fresh_joins if overwrite else plan.joins)[state.index]
        if partial:
            piece.run_what_can(values)
        else:
            piece.run(values)
        return self._state(state.index + 1, values, plan)

    def skip(self, state: State) -> State:
        """Leave out the next block including its sum, which nothing that remains to be evaluated reads."""
        plan = state.plan or self.segments
        return self._state(state.index + 1, self._values(state, plan), plan)

    def step(self, state: State, gate: Any = 1.0, *, partial: bool = False) -> State:
        """One block at a gate: a float (0 skips the branch) or a tensor that broadcasts over its output."""
        plan = state.plan or self.segments
        shortcut = self.shortcut(state)
        if not isinstance(gate, torch.Tensor) and gate == 0.0:
            return self.join(state, shortcut, partial=partial)
        quick = self.overwrites and not torch.is_grad_enabled()
        branch = self.branch(state)
        overwrite = quick and unwatched(plan.branch_watchers[state.index])
        total = gated_sum(shortcut, branch, gate, overwrite, branch_first=plan.branch_first[state.index])
        return self.join(state, total, overwrite=quick, partial=partial)

    def run(self, state: State, gates: Sequence[Any] | torch.Tensor | None = None, stop: int | None = None) -> State:
        """Run the blocks from a state up to `stop` (default: all), at gates for all n blocks (default: ones).

        A block whose sum does not affect the output at these gates (it is inside a branch whose gate is 0) is skipped.
        """
        plan = state.plan or self.segments
        values = _gate_list(gates, len(self))
        superfluous = self._superfluous(plan, values)
        partial = any(superfluous)
        for index in range(state.index, len(self) if stop is None else stop):
            state = self.skip(state) if superfluous[index] else self.step(state, values[index], partial=partial)
        return state

    def _superfluous(self, plan: Segments, gates: list[Any]) -> list[bool]:
        if not plan.skippable:
            return [False] * len(gates)
        return plan.superfluous([1.0 if isinstance(gate, torch.Tensor) else gate for gate in gates])

    def prefix(self, x: Any, stop: BlockRef, gates: Sequence[Any] | torch.Tensor | None = None) -> State:
        """The state at a block's entry: the stem and the blocks before it."""
        return self.run(self.stem(x), gates, self.index(stop))

    # evaluation of the full network

    def __call__(self, x: Any, gates: Gates | None = None, *, count: Evaluations | None = None) -> torch.Tensor:
        """The network's output at gates.

        Args:
            x: the model's input (batch first): tensor, tuple or dict of arguments.
            gates: None (the model itself), shape (n,), or shape (m, n) for m gate vectors at once. Rows share the
                evaluation of common prefixes, unless the gates require gradients.
            count: accumulator; the number of pieces evaluated is added to it.

        Returns:
            The output, (batch, ...); for gates of shape (m, n), (m, batch, ...).

        Raises:
            ValueError: the gates have the wrong shape.
            TypeError: they are not real numbers.

        Cost: without gates, one forward pass. For all 2^n vectors of zeros and ones, at most 2^(n+1) block
        evaluations instead of n 2^n.
        """
        if gates is None:
            return self.run(self.stem(x)).value
        if not isinstance(gates, torch.Tensor):
            try:
                gates = torch.as_tensor(gates, dtype=torch.float64, device="cpu")
            except (TypeError, ValueError) as error:
                raise TypeError(f"expected gates to be numbers, one per block, got {shown(gates)}") from error
        self._check_gates(gates)
        rows = gates if gates.ndim == 2 else gates[None]
        outputs: list[torch.Tensor | None] = [None] * len(rows)
        for row, output in evaluate_rows(self, x, rows, count):
            outputs[row] = output
        stacked = torch.stack([output for output in outputs if output is not None])
        return stacked if gates.ndim == 2 else stacked[0]

    def iterate(
        self, x: Any, gates: torch.Tensor, *, count: Evaluations | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (row, output) for each row of gates (m, n), in the order that shares the most; outputs are not kept."""
        self._check_gates(gates)
        return evaluate_rows(self, x, gates if gates.ndim == 2 else gates[None], count)

    def _check_gates(self, gates: torch.Tensor) -> None:
        if gates.is_complex():
            raise TypeError(f"expected gates to be real numbers, got {shown(gates)}")
        if gates.ndim not in (1, 2) or gates.shape[-1] != len(self) or not len(gates):
            raise ValueError(
                f"expected gates of shape ({len(self)},) or (m, {len(self)}), one per block, got {tuple(gates.shape)}"
            )

    # helpers

    def _values(self, state: State, plan: Segments) -> Values:
        values = dict(state.side)
        if state.value is not None:
            values[plan.cuts[state.index].entry] = state.value
        return values

    def _state(self, index: int, values: Values, plan: Segments) -> State:
        entry = plan.cuts[index].entry if index < len(self) else plan.program.output
        carried = plan.carried[index]
        # the entry is missing before a block that will be skipped because it is inside a skipped branch
        return State(index, values.get(entry), {node: values[node] for node in carried if node in values}, plan)  # type: ignore[arg-type]

    def _check_recorded(self, x: Any, values: Values) -> None:
        """Compare the network with the model once per new input shape: a recording may contain sizes of the example.

        Raises:
            UnrollError: the recorded operations are not valid for inputs of this shape.
        """
        shapes = _shapes(values)
        if shapes in self._held or any(map(torch._C._functorch.is_functorch_wrapped_tensor, _tensors(values))):
            return
        if self._held:  # the first shape is the example's own
            self._compare(x, shapes, TOLERANCE.get(_tensors(values)[0].dtype, 5e-2))
        self._held.add(shapes)

    def _compare(self, x: Any, shapes: Shapes, tolerance: float) -> None:
        try:
            difference, _ = self._difference(x)
            reason = "" if difference <= tolerance else f"it differs from the model by {difference:.3g}"
        except UnrollError:
            raise
        except RuntimeError as error:
            reason = str(error)
        if reason:
            raise UnrollError(
                f"expected inputs shaped like the example on which the model was recorded, got {list(shapes)} (without "
                f"the batch), for which the recording is not valid: {reason}; unroll the model again with an example "
                "of this shape"
            )

    def followed(self, returned: Any) -> torch.Tensor:
        """The output that the network returns, selected from what the model returned."""
        return output_at(returned, self.output_path)

    def _observe(self, example: Any) -> float:
        """Run model and network once on the example, and record the blocks' shapes.

        Returns:
            The largest difference between the two outputs, relative to the largest finite entry; equal infinities and
            two NaNs count as equal.
        """
        difference, entry_shapes = self._difference(example)
        self._held.add(_shapes(self._bind(example)[1]))
        pairs = zip(self._blocks, entry_shapes[:-1], strict=True)
        self._blocks = tuple(replace(block, entry_shape=shape) for block, shape in pairs)
        return difference

    def _difference(self, x: Any) -> tuple[float, list[tuple[int, ...]]]:
        """The difference between network and model on an input, and the shapes at the blocks' entries."""
        with preserved(self.model), torch.no_grad():
            state = self._begin(*self._bind(x))
            entry_shapes = [tuple(state.value.shape[1:])]
            while state.index < len(self):
                state = self.step(state)
                entry_shapes.append(tuple(state.value.shape[1:]))
        with preserved(self.model), torch.no_grad():
            expected = self.followed(call_model(self.model, x))
        if state.value.shape != expected.shape:
            return float("inf"), entry_shapes
        return relative_difference(state.value, expected), entry_shapes


def model_of(model: nn.Module | UnrolledNetwork) -> nn.Module:
    """The model itself, for analyses that use its main output (the logits, or the first tensor).

    Args:
        model: a model, or an unrolled network.

    Raises:
        UnrollError: the network uses another output, so its numbers would not be those of the analysis.
    """
    if not isinstance(model, UnrolledNetwork):
        return model
    if not model.follows_main_output:
        raise UnrollError(
            "expected a network that uses the model's main output (logits, or the first), since the loss is computed "
            f"from that, got one that uses {list(model.output_path)}; pass a model that returns only this tensor"
        )
    return model.model


def _tensors(values: Values) -> list[torch.Tensor]:
    return [value for value in values.values() if isinstance(value, torch.Tensor)]


def _shapes(values: Values) -> Shapes:
    """The shapes of an input's tensors, without the batch."""
    return tuple(tuple(tensor.shape[1:]) for tensor in _tensors(values))


def _gate_list(gates: Sequence[Any] | torch.Tensor | None, n: int) -> list[Any]:
    if gates is None:
        return [1.0] * n
    if len(gates) != n:
        raise ValueError(f"expected {n} gates, one per block, got {len(gates)}")
    if isinstance(gates, torch.Tensor):
        return list(gates.unbind()) if gates.requires_grad else gates.tolist()
    return list(gates)
