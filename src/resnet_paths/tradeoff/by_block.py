"""How long each block takes, and so how much dropping it can save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..arguments import checked
from ..graph.preserve import preserved
from ..network import UnrolledNetwork
from ..records import Record
from ..tables import data_frame
from .timing import Timing, latencies_in_turn, measure_latency

if TYPE_CHECKING:
    import pandas as pd

_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class LatencyByBlock(Record):
    """The time of each piece of a network in seconds, each run separately at the activations of one pass.

    Attributes:
        blocks: names of the blocks.
        branch: median time of each branch, which is what dropping the block saves.
        shortcut: median time of each shortcut, 0 for an identity.
        join: median time from each sum to the next block's entry (for the last block, the head).
        stem: median time before the first block.
        full: timing of the full model.
    """

    DIMENSIONS: ClassVar = {"branch": "block", "shortcut": "block", "join": "block"}
    COORDINATES: ClassVar = {"block": "blocks"}

    blocks: tuple[str, ...]
    branch: tuple[float, ...]
    shortcut: tuple[float, ...]
    join: tuple[float, ...]
    stem: float
    full: Timing

    @property
    def share(self) -> tuple[float, ...]:
        """Each branch's share of the total time of all pieces."""
        total = sum(self.branch) + sum(self.shortcut) + sum(self.join) + self.stem
        return tuple(value / total for value in self.branch)

    def to_pandas(self) -> pd.DataFrame:
        """One row per block, in milliseconds."""
        columns = {"branch_ms": self.branch, "shortcut_ms": self.shortcut, "join_ms": self.join}
        table = data_frame({name: [1e3 * value for value in values] for name, values in columns.items()})
        table.insert(0, "block", list(self.blocks))
        table["share"] = self.share
        return table


@checked
def latency_by_block(net: UnrolledNetwork, x: Any, *, seconds: float = 0.05) -> LatencyByBlock:
    """The time of every branch, shortcut and join, to see what dropping a block can save.

    Separate pieces do not benefit from what a full pass shares (caches, overlap on a GPU), so their sum may differ from
    the full time; `share` refers to the sum.

    Args:
        net: the network, in eval mode.
        x: the model's input, whose batch size and shape determine the times.
        seconds: minimum time to measure each piece for; the full model is measured ten times as long.

    Cost: about ``3 n seconds``.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18().eval())
        >>> table = latency_by_block(net, torch.randn(1, 3, 32, 32), seconds=0.005).to_pandas()
        >>> len(table), bool(table.share.sum() < 1)
        (8, True)
    """
    branch, shortcut, join = [], [], []
    with preserved(net.model), torch.inference_mode():
        stem = _time(lambda: net.stem(x), x, seconds) if net.segments.stem.steps else 0.0
        state = net.stem(x)
        for index in range(len(net)):
            total = net.shortcut(state) + net.branch(state)
            identity = net.segments.shortcuts[index] is None
            shortcut.append(0.0 if identity else _time(lambda s=state: net.shortcut(s), x, seconds))
            branch.append(_time(lambda s=state: net.branch(s), x, seconds))
            join.append(_time(lambda s=state, t=total: net.join(s, t), x, seconds))
            state = net.join(state, total)
        full = measure_latency(net.model, x, seconds=10 * seconds)
    return LatencyByBlock(tuple(block.name for block in net), tuple(branch), tuple(shortcut), tuple(join), stem, full)


def _time(piece: Any, x: Any, seconds: float) -> float:
    """The median of a few rounds; a piece needs no interval."""
    return latencies_in_turn([lambda *_args, **_named: piece()], x, seconds=seconds, rounds=_ROUNDS)[0].median
