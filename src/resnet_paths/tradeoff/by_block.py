"""How long each block takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..arguments import checked
from ..graph.preserve import preserved
from ..network import UnrolledNetwork
from ..records import Record
from ..tables import data_frame
from .timing import Timing, measure_latency

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class LatencyByBlock(Record):
    """Seconds that the pieces of a network take, each run on its own at the activations of one pass.

    Attributes:
        blocks: names.
        branch: median seconds of each branch: what dropping the block saves.
        shortcut: of each shortcut, 0 for an identity.
        join: of what follows each sum up to the next block's entry (the head, for the last).
        stem: of the part before the first block.
        full: of the full model.
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
        """Each branch's share of the time of all pieces."""
        total = sum(self.branch) + sum(self.shortcut) + sum(self.join) + self.stem
        return tuple(value / total for value in self.branch)

    def to_pandas(self) -> pd.DataFrame:
        """One row a block; milliseconds."""
        columns = {"branch_ms": self.branch, "shortcut_ms": self.shortcut, "join_ms": self.join}
        table = data_frame({name: [1e3 * value for value in values] for name, values in columns.items()})
        table.insert(0, "block", list(self.blocks))
        table["share"] = self.share
        return table


@checked
def latency_by_block(net: UnrolledNetwork, x: Any, *, seconds: float = 0.05) -> LatencyByBlock:
    """The time of every branch, shortcut and join, to see what dropping a block can save.

    Pieces that run on their own miss what a full pass shares (caches, overlap on a GPU), so their sum may differ
    from the whole; `share` is of their sum.

    Args:
        net: the network, in eval mode.
        x: the model's input; its batch and shape decide the times.
        seconds: how long to measure each piece, at least; the full model ten times as long.

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
        stem = measure_latency(net.stem, x, seconds=seconds).median if net.segments.stem.steps else 0.0
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
    return measure_latency(lambda _: piece(), x, seconds=seconds).median
