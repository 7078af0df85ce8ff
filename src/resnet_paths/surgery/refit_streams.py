"""The full network and the dropped one side by side on calibration inputs, block by block.

A refit goes through the blocks in order and needs, at each one, what the dropped network has computed so far (with the
layers fitted so far) and the full network's sum. If the full network's states on all inputs fit into memory, they are
computed once and serve every set of blocks; the dropped network's states are carried along from block to block.
Otherwise both are recomputed for each block, which takes more time but memory for only one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch

from ..data.inputs import Inputs, placed_input
from ..graph.trees import leaves
from ..network import State, Twins, UnrolledNetwork


class FullRun:
    """The full network on some inputs: its states, sums and outputs.

    Args:
        net: the full network.
        inputs: the inputs that it runs on.
        batch_size: inputs per batch.
        memory: bytes available for states and sums.
        sums: whether sums are needed.

    Attributes:
        kept: whether states and sums are in memory.
    """

    def __init__(
        self, net: UnrolledNetwork, inputs: Inputs, batch_size: int, memory: float, *, sums: bool = True
    ) -> None:
        self.net = net
        self._inputs, self._batch_size = inputs, batch_size
        self._states: list[list[State]] = []
        self._sums: list[list[torch.Tensor]] = []
        self.kept = self._fill(memory, sums)

    @cached_property
    def outputs(self) -> torch.Tensor:
        """The network's outputs on all inputs."""
        return torch.cat(list(self.each_output()))

    def each_output(self) -> Iterator[torch.Tensor]:
        """The outputs batch by batch, none of which is kept: those of tokens may be larger than the states."""
        last = len(self.net) - 1
        return (self.net.run(self.state(number, x, last)).value for number, x in self.batches())

    def batches(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The batches with their numbers, on the network's device and in its dtype."""
        return (
            (number, placed_input(x, self.net.model)) for number, x in enumerate(self._inputs.batches(self._batch_size))
        )

    def counted(self, number: int) -> torch.Tensor | None:
        """Which positions of a batch count, by its number; None: all, or inputs count as wholes."""
        return self._inputs.counted_in(number, self._batch_size)

    def state(self, number: int, x: torch.Tensor, index: int) -> State:
        """The state of a batch at a block's entry."""
        return self._states[number][index] if self.kept else self.net.prefix(x, index)

    def sum_at(self, number: int, x: torch.Tensor, index: int) -> torch.Tensor:
        """A block's sum, before its activation."""
        if self.kept:
            return self._sums[number][index]
        return block_sum(self.net, self.net.prefix(x, index))

    def _fill(self, memory: float, with_sums: bool) -> bool:
        used = 0
        for number, x in self.batches():
            state = self.net.stem(x)
            states, sums = [], []
            for _ in range(len(self.net)):
                total = block_sum(self.net, state)
                states.append(state)
                sums += [total] * with_sums
                used += sum(map(_bytes, leaves([state.value, list(state.side.values()), sums[-1:]])))
                state = self.net.join(state, total)
            self._states.append(states)
            self._sums.append(sums)
            batches = -(-self._inputs.count // self._batch_size)
            # Extrapolated from the batches so far, so that states that will not all fit are given up early.
            if used * batches > memory * (number + 1):
                self._states, self._sums = [], []
                return False
        return True


class DroppedRun:
    """A network at gates on the same inputs, whose weights change as the run proceeds.

    Args:
        full: the full network's run.
        twins: moves states from the full network to the one being fitted.
        gates: zero for each dropped block.
        start: the first block whose sum differs from the full network's.
    """

    def __init__(self, full: FullRun, twins: Twins, gates: Sequence[float], start: int) -> None:
        self._full, self._twins, self._net, self._gates, self._start = full, twins, twins.second, list(gates), start
        self._states: dict[int, State] = {}

    def state(self, number: int, x: torch.Tensor, index: int) -> State:
        """The state of a batch at a block's entry; earlier blocks must not change any more."""
        if not self._full.kept:
            return self._net.run(self._net.stem(x), self._gates, index)
        state = self._states.get(number)
        if state is None:
            # Up to `start` both networks compute the same.
            state = self._twins(self._full.state(number, x, min(self._start, index)))
        state = self._net.run(state, self._gates, index)
        self._states[number] = state
        return state


def block_sum(net: UnrolledNetwork, state: State) -> torch.Tensor:
    """The next block's sum at a state, before its activation."""
    return net.shortcut(state) + net.branch(state)


def _bytes(leaf: object) -> int:
    return leaf.numel() * leaf.element_size() if isinstance(leaf, torch.Tensor) else 0
