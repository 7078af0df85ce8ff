"""Which batch norms a dropped block reaches, and the network as it would be after recalibration."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from ..arguments import checked
from ..graph.dataflow import descendants
from ..graph.private_copy import private_copy
from ..network import BlockRef, UnrolledNetwork, unroll
from ..network.norms import tracking_norms


@checked
def norms_before(net: UnrolledNetwork, dropped: Sequence[BlockRef]) -> list[str]:
    """Names of the batch norms left after dropping whose input no dropped block reaches: their statistics stay right.

    Norms inside a module that the graph does not enter are not listed: they may be reached.
    """
    blocks, segments = net.indices(list(dropped)), net.segments
    reached = descendants(*(segments.cuts[index].add for index in blocks))
    gone = set().union(*(segments.needs.left_without(segments.cuts[index]) for index in blocks))
    calls: dict[str, list[fx.Node]] = {}
    for node in segments.program.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return [
        name
        for name in tracking_norms(net.model)
        if name in calls and not reached.intersection(calls[name]) and not gone.issuperset(calls[name])
    ]


@checked
def batch_statistics(net: UnrolledNetwork) -> UnrolledNetwork:
    """The network over a copy of its model whose batch norms use the statistics of whatever batch they see.

    So it behaves, for a large batch, as after recalibration, whichever blocks are dropped.

    Raises:
        RuntimeError: the copy has other blocks.
    """
    model = private_copy(net.model)
    for norm in tracking_norms(model).values():
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    found = unroll(model, net._example, output=net.output)
    if len(found) != len(net):
        raise RuntimeError(f"expected {len(net)} blocks with batch statistics, got {len(found)}")
    return found
