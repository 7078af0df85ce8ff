"""One forward pass, recorded so that gradients can be pulled back through each piece on its own.

At the activations of the pass, unit i is ``total = shortcut(y) + branch(y)``, ``y' = join(total)`` (the
activation after the sum, and whatever leads to the next unit's entry or to the output). The transposed
Jacobians S', J' and D' of the three are what every analysis of paths multiplies by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..graph.inputs import named
from ..graph.preserve import preserved
from ..network import State, UnitRef, UnrolledNetwork
from ._chain import Chain, HooksNoted, chain_between, share_memory
from ._objective import Loss, check_eval, scalar_loss
from .block_graph import PathGraph, chain_graph

CACHE_BYTES = 2**20  # measured: a CPU pulls larger products back more slowly, by up to a half


@dataclass(frozen=True, eq=False)
class Recorded:
    """One unit of the pass: the values between its pieces, linked by the autograd graph."""

    name: str
    entry: torch.Tensor
    shortcut: torch.Tensor
    branch: torch.Tensor
    total: torch.Tensor
    exit: torch.Tensor


class Puller:
    """Pulls rows of cotangents back through pieces of a recorded pass.

    Attributes:
        vjps: how many rows were pulled back through which kind of piece.
        looped: pieces of which an operation has no batching rule, so that rows were pulled back one by
            one, with the reason.
    """

    def __init__(self, max_bytes: int | None) -> None:
        if max_bytes is not None and max_bytes <= 0:
            raise ValueError(f"expected max_bytes above 0, got {max_bytes}; None chooses it")
        self.max_bytes = max_bytes
        self.vjps: Counter[str] = Counter()
        self.looped: dict[str, str] = {}
        self._most_rows: int | None = None
        self._chains: dict[tuple[int, int], Chain | None] = {}
        self._hooked = False

    def chunks(self, rows: int, *values: torch.Tensor) -> list[slice]:
        """Slices of rows that one batched product takes at a time, the last ones first."""
        size = self.rows_at_once(*values)
        return [slice(max(0, stop - size), stop) for stop in range(rows, 0, -size)]

    def rows_at_once(self, *values: torch.Tensor) -> int:
        """How many rows to pull back at once, by the memory budget and what memory has shown to hold."""
        row = 4 * max(value.numel() * value.element_size() for value in values)
        device = values[0].device
        budget = self.max_bytes
        if budget is None and device.type == "cuda":
            budget = torch.cuda.mem_get_info(device)[0] // 4
        if budget is None:
            budget = 4 * CACHE_BYTES
        size = max(1, budget // max(row, 1))
        return size if self._most_rows is None else min(size, self._most_rows)

    def pull(
        self, piece: str, output: torch.Tensor, inputs: list[torch.Tensor], rows: torch.Tensor
    ) -> list[torch.Tensor]:
        """Rows (rows, batch, ...) at a value as rows at the earlier values from which it was computed."""
        found: list[torch.Tensor | None] | None = None
        if self._most_rows is None or len(rows) <= self._most_rows:
            try:
                found = self._pull_once(piece, output, inputs, rows)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                self._most_rows = len(rows) // 2
        if found is None:
            halves = [self.pull(piece, output, inputs, half) for half in rows.split(self._most_rows or 1)]
            return [torch.cat(parts) for parts in zip(*halves, strict=True)]
        return [row_zeros(rows, value) if grad is None else grad for grad, value in zip(found, inputs, strict=True)]

    def _pull_once(
        self, piece: str, output: torch.Tensor, inputs: list[torch.Tensor], rows: torch.Tensor
    ) -> list[torch.Tensor | None]:
        if not output.requires_grad:
            return [None] * len(inputs)
        rows = rows.to(output.dtype)
        chain = self._chain(output, inputs[0]) if len(inputs) == 1 else None
        if chain is not None:
            return [chain.pull(rows)]
        rows = _stored_as(rows, output)
        if len(rows) > 1 and piece not in self.looped:
            try:
                return self._grad(output, inputs, rows, batched=True)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                single = [self._grad(output, inputs, row) for row in rows]
                self.looped[piece] = str(error)
                return _stacked(single)
        return _stacked([self._grad(output, inputs, row) for row in rows])

    def _chain(self, output: torch.Tensor, start: torch.Tensor) -> Chain | None:
        between = id(output), id(start)  # both live as long as the recording does
        if between not in self._chains:
            self._chains[between] = None if self._hooked else chain_between(output, start)
        return self._chains[between]

    @staticmethod
    def _grad(
        output: torch.Tensor,
        inputs: Sequence[torch.Tensor],
        cotangent: torch.Tensor | None,
        batched: bool = False,
    ) -> list[torch.Tensor | None]:
        grad: Callable[..., Any] = torch.autograd.grad
        found: tuple[torch.Tensor | None, ...] = grad(
            output, inputs, cotangent, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )
        return list(found)


class Tape(Puller):
    """A recorded pass from the input, or from one unit's entry, to the loss.

    Attributes:
        start: the tensor on whose side the recording begins: the (first floating) input, or the entry.
        first: index of the first unit recorded.
        units: the recorded units, from `first` to the last.
        output: the network's output.
        loss: the scalar.
        seed: gradient of the loss with respect to the output.
    """

    def __init__(
        self,
        net: UnrolledNetwork,
        x: Any,
        target: Any,
        loss: Loss = "cross_entropy",
        start: UnitRef | None = None,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(max_bytes)
        check_eval(net)
        self.net = net
        self.first = 0 if start is None else net.index(start)
        # a reparametrised layer keeps its weight of each run
        with torch.enable_grad(), preserved(net.model), HooksNoted() as hooks:
            self.start, state = _begin(net, x, start)
            self.stem_exit = state.value
            self.units: list[Recorded] = []
            while state.index < len(net):
                unit, state = _record(net, state)
                self.units.append(unit)
            self.output = self.units[-1].exit
            self.loss = scalar_loss(self.output, target, loss)
        self._hooked = hooks.any
        self.seed = self.gradient([self.output])[0]

    @property
    def n(self) -> int:
        """The number of units recorded."""
        return len(self.units)

    @property
    def graph(self) -> PathGraph:
        """The graph of the paths through the units recorded: a chain."""
        return chain_graph(self.n)

    def backwards(self) -> Iterator[tuple[int, Recorded]]:
        """The recorded units from the last to the first, with their index in the network."""
        for place in reversed(range(self.n)):
            yield self.first + place, self.units[place]

    # the ordinary gradient

    def gradient(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The ordinary gradient of the loss: one backward pass through the whole recording."""
        found = self._grad(self.loss, list(inputs), None)
        return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]

    # pulling rows of cotangents, (rows, batch, ...), back through one piece

    def through_join(
        self, unit: Recorded, rows: torch.Tensor, *inputs: torch.Tensor, into: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Rows times D: from a unit's exit to its sum (and to parameters in between, as `inputs`).

        Where the join is a ReLU alone the result may be written straight `into` a tensor of its shape.
        """
        if unit.exit is unit.total and not inputs:
            return [rows]
        self.vjps["join"] += len(rows)
        piece = f"{unit.name}: join"
        if not inputs and into is not None and into.shape == rows.shape and rows.dtype is unit.exit.dtype:
            chain = self._chain(unit.exit, unit.total)
            if chain is not None and chain.mask is not None:
                mask = chain.mask.expand_as(rows)
                return [torch.ops.aten.threshold_backward.grad_input(rows, mask, 0, grad_input=into)]
        return self.pull(piece, unit.exit, [unit.total, *inputs], rows)

    def through_shortcut(self, unit: Recorded, rows: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Rows times S: from a unit's sum to its entry by the shortcut."""
        rows = reduced(rows, unit.shortcut)
        if unit.shortcut is unit.entry and not inputs:
            return [rows]
        self.vjps["shortcut"] += len(rows)
        return self.pull(f"{unit.name}: shortcut", unit.shortcut, [unit.entry, *inputs], rows)

    def through_branch(self, unit: Recorded, rows: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Rows times J: from a unit's sum to its entry by the branch."""
        rows = reduced(rows, unit.branch)
        self.vjps["branch"] += len(rows)
        return self.pull(f"{unit.name}: branch", unit.branch, [unit.entry, *inputs], rows)

    def add_branch(self, unit: Recorded, rows: torch.Tensor, onto: torch.Tensor) -> None:
        """Add rows times J onto rows at the entry, which may lie where the former do."""
        chain = self._chain(unit.branch, unit.entry)
        if chain is None or not chain.stored_channels_last or rows.shape[1:] != unit.branch.shape:
            (arrived,) = self.through_branch(unit, rows)
            onto += arrived.clone() if share_memory(arrived, onto) else arrived
            return
        self.vjps["branch"] += len(rows)
        chain.pull(rows, onto)

    def row_strides(self, unit: Recorded) -> tuple[int, ...]:
        """How to store a row at a unit's entry so that it is pulled back soonest."""
        entry = unit.entry
        chain = self._chain(unit.branch, entry)
        kept = entry.is_contiguous() or (entry.ndim == 4 and entry.is_contiguous(memory_format=torch.channels_last))
        if chain is not None and chain.stored_channels_last:
            return torch.empty(entry.shape, device="meta", memory_format=torch.channels_last).stride()
        return entry.stride() if kept else torch.empty(entry.shape, device="meta").stride()

    def through_stem(self, rows: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Rows from the first recorded unit's entry to the start of the recording."""
        if self.stem_exit is self.start and not inputs:
            return [rows]
        self.vjps["stem"] += len(rows)
        return self.pull("stem", self.stem_exit, [self.start, *inputs], rows)

    def through_all_before(
        self, value: torch.Tensor, rows: torch.Tensor, inputs: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Rows at a unit's entry or sum, by all ways at once, to parameters that are used before it."""
        if not inputs:
            return []
        self.vjps["shared"] += len(rows)
        return self.pull("what comes before a shared parameter's last use", value, inputs, rows)


def row_zeros(rows: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """As many zeros of a value's shape as there are rows."""
    return value.new_zeros((len(rows), *value.shape))


def parameters_between(output: torch.Tensor, *stops: torch.Tensor) -> list[torch.Tensor]:
    """The leaves, other than the stops, that a value depends on without passing through a stop."""
    ends = {_edge(stop) for stop in stops}
    leaves: dict[int, torch.Tensor] = {}
    todo, seen = [_edge(output)], set(ends)
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        todo.extend(following for following, _ in node.next_functions)
    return list(leaves.values())


def _edge(value: torch.Tensor) -> Any:
    return torch.autograd.graph.get_gradient_edge(value).node if value.requires_grad else None


def _begin(net: UnrolledNetwork, x: Any, start: UnitRef | None) -> tuple[torch.Tensor, State]:
    """The leaf on whose side a recording begins, and the state at the first recorded unit's entry."""
    if start is not None:
        with torch.no_grad():
            state = net.prefix(x, start)
        leaf = state.value.detach().requires_grad_()
        return leaf, replace(state, value=leaf)
    x = named(net.model, net.segments.inputs, x)
    x, leaf = with_leaf(x, _main_input(net, x))
    state = net.stem(x)
    if not state.value.requires_grad:
        raise ValueError(
            "expected a first unit whose entry depends differentiably on the input, got one without gradient; "
            "take out detach() or no_grad in the model's stem, or ask for the gradient at a unit's entry"
        )
    return leaf, state


def _main_input(net: UnrolledNetwork, x: Any) -> str | int | None:
    """The key in x of the input along which the network was unrolled; None where it was along all together."""
    main = net.segments.main
    if main is None or len(net.segments.inputs) == 1 or not isinstance(x, (dict, tuple)):
        return None
    name = str(main.target)
    return name if isinstance(x, dict) else list(net.segments.inputs).index(name)


def with_leaf(x: Any, main: str | int | None = None) -> tuple[Any, torch.Tensor]:
    """The model's input with one tensor replaced by a leaf, and that leaf.

    Args:
        x: tensor, tuple or dict.
        main: which one; None takes the first floating one.

    Raises:
        ValueError: there is none, or the one is not floating.
    """
    names = list(x) if isinstance(x, dict) else range(len(x)) if isinstance(x, tuple) else [None]
    names = names if main is None else [main]
    for name in names:
        value = x if name is None else x[name]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            leaf = (value.clone() if value.is_inference() else value).detach().requires_grad_()
            if isinstance(x, tuple):
                return tuple(leaf if place == name else item for place, item in enumerate(x)), leaf
            return (leaf if name is None else {**x, name: leaf}), leaf
    raise ValueError(
        "expected an input with a floating tensor, with respect to which a gradient exists, got none; ask for "
        "the gradient at a unit's entry (wrt=0)"
    )


def _record(net: UnrolledNetwork, state: State) -> tuple[Recorded, State]:
    shortcut, branch = net.shortcut(state), net.branch(state)
    total = shortcut + branch
    after = net.join(state, total)
    if not after.value.requires_grad:
        raise ValueError(
            f"expected unit {state.index} ({net[state.index].name}) to be differentiable, got a value without "
            "gradient after it; take out detach() or no_grad in the model"
        )
    return Recorded(net[state.index].name, state.value, shortcut, branch, total, after.value), after


def _stored_as(rows: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Rows, each stored as the value whose gradients they are.

    Autograd's own are; of others PyTorch 2.15's batch norm (CPU) reads a batch of one in the wrong order.
    """
    if rows.stride()[1:] == value.stride():
        return rows
    if not value.is_contiguous() and torch.empty_like(value, device="meta").stride() != value.stride():
        return rows.contiguous()  # a view with gaps or repetitions
    return rows.new_empty(0).new_empty_strided(rows.shape, (value.numel(), *value.stride())).copy_(rows)


def reduced(rows: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
    """Rows at a sum as rows at one of its terms, which may have been broadcast."""
    if rows.shape[1:] == term.shape:
        return rows
    return torch.stack([row.sum_to_size(term.shape) for row in rows])


def _stacked(rows: list[list[torch.Tensor | None]]) -> list[torch.Tensor | None]:
    stacked: list[torch.Tensor | None] = []
    for column in zip(*rows, strict=True):
        parts = [part for part in column if part is not None]
        if not parts:
            stacked.append(None)
        elif len(parts) == 1:
            stacked.append(parts[0][None])
        else:
            stacked.append(torch.stack(parts))
    return stacked
