"""Which batch norms a dropped block affects, and a network that behaves as if recalibrated.

The planner scores hundreds of sets of blocks. Recalibrating a model for each would take longer than everything else, so
it uses a network whose norms take the statistics of each batch instead.
"""

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
    """Names of the remaining batch norms that no dropped block affects, so that their statistics stay valid.

    Norms inside a closed module are not listed, since they may be affected.
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
    """The network over a copy of its model whose batch norms use the statistics of the current batch.

    On a large batch it behaves as if recalibrated, whichever blocks are dropped.

    Raises:
        RuntimeError: the copy has different blocks.
    """
    model = private_copy(net.model)
    norms = tracking_norms(model)
    for norm in norms.values():
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    result = net.on_copy(model, tuple(norms)) or unroll(model, net._example, output=net.output)
    if len(result) != len(net):
        raise RuntimeError(f"expected {len(net)} blocks with batch statistics, got {len(result)}")
    return result
