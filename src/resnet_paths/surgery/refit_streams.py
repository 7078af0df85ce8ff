"""The full network and the dropped one side by side on calibration inputs, block by block.

A refit goes through the blocks in order and needs, at each, what the dropped network has computed so far (with the
layers fitted so far) and the full network's sum. Where the full network's states on all inputs fit into memory they are
computed once and serve every set of blocks that is tried; the dropped network's are carried along from block to block.
Where they do not, both are computed anew for each block: more time, and memory for one batch alone.
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
        inputs: what it runs on.
        batch_size: inputs per batch.
        memory: bytes that states and sums may take.
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
        last = len(self.net) - 1
        return torch.cat([self.net.run(self.state(number, x, last)).value for number, x in self.batches()])

    def batches(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The batches with their numbers, as the network reads them."""
        return (
            (number, placed_input(x, self.net.model)) for number, x in enumerate(self._inputs.batches(self._batch_size))
        )

    def state(self, number: int, x: torch.Tensor, index: int) -> State:
        """The state of a batch at a block's entry."""
        return self._states[number][index] if self.kept else self.net.prefix(x, index)

    def sum_at(self, number: int, x: torch.Tensor, index: int) -> torch.Tensor:
        """A block's sum, before what follows it."""
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
            if used * batches > memory * (number + 1):
                self._states, self._sums = [], []
                return False
        return True


class DroppedRun:
    """A network at gates on the same inputs, its weights changing as the run goes on.

    Args:
        full: the full network's run.
        twins: from the full network to the one whose layers are fitted.
        gates: zero for each block that is dropped.
        start: the first block whose sum is not the full network's.
    """

    def __init__(self, full: FullRun, twins: Twins, gates: Sequence[float], start: int) -> None:
        self._full, self._twins, self._net, self._gates, self._start = full, twins, twins.second, list(gates), start
        self._states: dict[int, State] = {}

    def state(self, number: int, x: torch.Tensor, index: int) -> State:
        """The state of a batch at a block's entry; blocks before it must not change any more."""
        if not self._full.kept:
            return self._net.run(self._net.stem(x), self._gates, index)
        state = self._states.get(number)
        if state is None:
            state = self._twins(self._full.state(number, x, min(self._start, index)))
        state = self._net.run(state, self._gates, index)
        self._states[number] = state
        return state


def block_sum(net: UnrolledNetwork, state: State) -> torch.Tensor:
    """The next block's sum at a state, before what follows it."""
    return net.shortcut(state) + net.branch(state)


def _bytes(leaf: object) -> int:
    return leaf.numel() * leaf.element_size() if isinstance(leaf, torch.Tensor) else 0
