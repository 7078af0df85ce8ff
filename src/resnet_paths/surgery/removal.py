"""Remove the branches of blocks from a model, or from a copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..graph.copying import copied
from ..graph.removed_parts import Holdings
from ..network import UnrolledNetwork
from .edit import edits, give_forward, note_dropped, take_out
from .token_cache import warn_of_token_count


def without_blocks(net: UnrolledNetwork, indices: Sequence[int], *, inplace: bool = False) -> nn.Module:
    """A copy of a network's model, or the model itself, without the branches of some blocks.

    Raises:
        NotDroppableError: a block cannot be dropped.
        UnrollError: the model cannot be copied.
    """
    forwards = edits(net, indices)
    warn_of_token_count(net.segments.program, [net.segments.cuts[index] for index in indices])
    removed = Holdings(net.segments.program).removed([written.plan for written, _ in forwards])
    memo: dict[int, Any] = {}
    result = net.model if inplace else copied(net.model, memo)

    def counterpart(module: nn.Module) -> nn.Module:
        same: nn.Module = module if inplace else memo[id(module)]
        return same

    for forward in forwards:
        give_forward(counterpart(forward[0].plan.site.module), forward)
    take_out(removed, counterpart)
    note_dropped(result, [net[index].name for index in indices])
    return result
