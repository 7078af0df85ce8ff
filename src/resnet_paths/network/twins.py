"""Two copies of one model: an evaluation that starts in one continues in the other.

Lesions of several blocks use it: the blocks before the first change run in the original, the rest in the copy.
"""

from __future__ import annotations

from .unrolled import State, UnrolledNetwork


class Twins:
    """Moves states from a network to a copy of it, which may have other weights but has the same graph.

    Args:
        first: the network that states come from.
        second: the network that they continue in.

    Attributes:
        second: the network that states continue in.

    Raises:
        ValueError: the graphs differ, so the networks are not copies of one model.

    Example:
        >>> import torch
        >>> from resnet_paths.models import cifar_resnet
        >>> from resnet_paths.network import for_inference, unroll
        >>> net = unroll(cifar_resnet(8, seed=0).eval())
        >>> x, copy = torch.randn(2, 3, 32, 32), for_inference(net, fold=False)
        >>> with torch.inference_mode():
        ...     bool(torch.allclose(copy.run(Twins(net, copy)(net.prefix(x, 2))).value, net(x), atol=1e-5))
        True
    """

    def __init__(self, first: UnrolledNetwork, second: UnrolledNetwork) -> None:
        graphs = [list(net.segments.program.graph.nodes) for net in (first, second)]
        kinds = [[(node.op, len(node.all_input_nodes)) for node in nodes] for nodes in graphs]
        if kinds[0] != kinds[1]:
            raise ValueError("expected two copies of one model, got networks with different graphs")
        self.second, self._plan = second, second.segments
        self._twin = dict(zip(*graphs, strict=True))

    def __call__(self, state: State) -> State:
        """The same values, as a state of the second network."""
        side = {self._twin[node]: value for node, value in state.side.items()}
        return State(state.index, state.value, side, self._plan)
