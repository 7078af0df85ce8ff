"""One model of several sizes: nested sets of blocks dropped, each with a repair of its own, chosen while it runs.

What a device can spend on an answer changes while it works: its battery, its heat, what else it does. Several networks
of one family would have to be stored and loaded; here each size is the same network with fewer blocks, and all share
the weights that their repairs leave as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..data import ImageSource
from ..data.inputs import as_inputs, placed_input
from ..graph.private_copy import private_copy
from ..network import BlockRef, UnrolledNetwork
from ..surgery import RefitSettings, Refitter
from ..surgery.shared_weights import share_weights
from .runtimes import Clock
from .timing import latencies_in_turn


class Elastic(nn.Module):
    """A model whose size is set while it runs: ``model.budget = 0.7``.

    Attributes:
        sizes: the model in each size, the full one first.
        dropped: for each size, the names of the blocks that it lacks.
        costs: for each size, its time as a share of the full model's, where it was measured.
        own: the number of values in the full model, and for each other size of those that it does not share with it.
    """

    def __init__(
        self, sizes: Sequence[nn.Module], dropped: Sequence[tuple[str, ...]], costs: Sequence[float], own: Sequence[int]
    ) -> None:
        super().__init__()
        self.sizes = nn.ModuleList(sizes)
        self.dropped, self.costs, self.own = tuple(dropped), tuple(costs), tuple(own)
        self._level = 0

    @property
    def level(self) -> int:
        """The size in use, 0 for the full model; set by :attr:`budget`, or directly.

        Raises:
            ValueError: there is no such size.
        """
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        if level not in range(len(self.sizes)):
            raise ValueError(f"expected a level from 0, the full model, to {len(self.sizes) - 1}, got {level}")
        self._level = level

    @property
    def budget(self) -> float:
        """The time of an answer as a share of the full model's, of the size in use.

        Set to a share, it takes the size with the fewest blocks dropped whose time is at most that.

        Raises:
            ValueError: no size is as fast as that.
        """
        return self.costs[self.level]

    @budget.setter
    def budget(self, share: float) -> None:
        fitting = [level for level, cost in enumerate(self.costs) if cost <= share]
        if not fitting:
            raise ValueError(f"expected a budget of at least {min(self.costs):.3g}, the fastest size, got {share}")
        self.level = fitting[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The answer of the size in use."""
        return self.sizes[self.level](*args, **kwargs)

    def extra_repr(self) -> str:
        """The sizes in a line each."""
        lines = zip(self.costs, self.dropped, strict=True)
        return "\n".join(f"{cost:.2f} of the time: {len(names)} blocks dropped" for cost, names in lines)


@checked
def elastic(
    net: UnrolledNetwork,
    sets: Sequence[Sequence[BlockRef]],
    images: ImageSource | torch.Tensor,
    *,
    settings: RefitSettings | None = None,
    clock: Clock | None = None,
) -> Elastic:
    """One module of several sizes, each the network without a set of blocks, repaired in closed form.

    Args:
        net: the network, in eval mode; it and its model are not changed.
        sets: of blocks to drop, each with all blocks of the one before it: such as a plan's points have.
        images: calibration images, without labels or with.
        settings: of the refits.
        clock: how the time of each size is measured, on the first of the images.

    Returns:
        The module, in its full size.

    Raises:
        ValueError: sets that are not nested.
        NotDroppableError: a block cannot be taken out.

    Cost: a refit for each set, and the clock's seconds for each size. Memory: the model once, and for each size the
    layers that its repair changed.

    Example:
        >>> from resnet_paths import load_data, load_model, unroll
        >>> data, clock = load_data("digits", "train").sample(80), Clock(batch=8, seconds=0.01, rounds=3)
        >>> model = elastic(unroll(load_model("embedded")), [[3], [3, 7], [3, 7, 12]], data, clock=clock)
        >>> model.budget = 1.0
        >>> model.level, model.dropped[2], model(data.x[:2]).shape
        (0, ('layer1.3', 'layer1.7'), torch.Size([2, 10]))
    """
    indices = [frozenset(net.indices(blocks)) for blocks in sets]
    for smaller, larger in itertools.pairwise([frozenset(), *indices]):
        if not smaller < larger:
            raise ValueError(
                f"expected nested sets of blocks, each larger than the one before, got {sorted(smaller)} and then "
                f"{sorted(larger)}"
            )
    refitter, clock = Refitter(net, images, settings=settings), clock or Clock()
    full = private_copy(net.model)
    results = [refitter(sorted(dropped)) for dropped in indices]
    own = [share_weights(result.model, full) for result in results]
    sizes = [full, *(result.model for result in results)]
    x = as_inputs(images, net.model).take(slice(0, clock.batch))
    timings = latencies_in_turn(
        sizes, placed_input(x, full), seconds=clock.seconds, threads=clock.threads, rounds=clock.rounds
    )
    costs = [1.0, *(timing.median / timings[0].median for timing in timings[1:])]
    total = sum(tensor.numel() for tensor in full.state_dict().values())
    return Elastic(sizes, [(), *(result.dropped for result in results)], costs, [total, *own])
