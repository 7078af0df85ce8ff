"""One model in several sizes: nested sets of dropped blocks, each with its own repair, selected at run time.

The time that a device can spend on an answer varies with its battery, temperature and load. Several networks of
one family would have to be stored and loaded separately. Here each size is the same network with fewer blocks, and all
sizes share the weights that their repairs leave unchanged.
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
from ..nouns import counted
from ..surgery import RefitSettings, Refitter
from ..surgery.shared_weights import share_weights
from .runtimes import Clock
from .timing import latencies_in_turn


class Elastic(nn.Module):
    """A model whose size can be changed at run time: ``model.budget = 0.7``.

    Attributes:
        sizes: the model in each size, the full one first.
        dropped: names of the dropped blocks, per size.
        costs: measured time as a share of the full model's, per size.
        own_weights: number of weights of the full model, then for each other size the number that it does not share
            with it.
    """

    def __init__(
        self,
        sizes: Sequence[nn.Module],
        dropped: Sequence[tuple[str, ...]],
        costs: Sequence[float],
        own_weights: Sequence[int],
    ) -> None:
        super().__init__()
        self.sizes = nn.ModuleList(sizes)
        self.dropped, self.costs, self.own_weights = tuple(dropped), tuple(costs), tuple(own_weights)
        self._level = 0

    @property
    def level(self) -> int:
        """The current size, 0 for the full model; set through :attr:`budget`, or directly.

        Raises:
            ValueError: there is no such size.
        """
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        if level not in range(len(self.sizes)):
            raise ValueError(f"expected a level between 0 (the full model) and {len(self.sizes) - 1}, got {level}")
        self._level = level

    @property
    def budget(self) -> float:
        """The current size's time as a share of the full model's.

        Setting it selects the size with the fewest dropped blocks whose time is at most this share.

        Raises:
            ValueError: no size is this fast.
        """
        return self.costs[self.level]

    @budget.setter
    def budget(self, share: float) -> None:
        fitting = [level for level, cost in enumerate(self.costs) if cost <= share]
        if not fitting:
            raise ValueError(f"expected a budget of at least {min(self.costs):.3g}, the fastest size, got {share}")
        self.level = fitting[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the current size."""
        return self.sizes[self.level](*args, **kwargs)

    def extra_repr(self) -> str:
        """One line per size."""
        lines = zip(self.costs, self.dropped, strict=True)
        return "\n".join(f"{cost:.2f} of the time: {counted(len(names), 'block')} dropped" for cost, names in lines)


@checked
def elastic(
    net: UnrolledNetwork,
    sets: Sequence[Sequence[BlockRef]],
    images: ImageSource | torch.Tensor,
    *,
    settings: RefitSettings | None = None,
    clock: Clock | None = None,
) -> Elastic:
    """One module in several sizes, each the network without a set of blocks, repaired in closed form.

    Args:
        net: the network, in eval mode; neither it nor its model is changed.
        sets: sets of blocks to drop, each containing the previous one, like those of a plan's points.
        images: calibration images, with or without labels.
        settings: settings of the refits.
        clock: how the time of each size is measured, on the first images.

    Returns:
        The module, in its full size.

    Raises:
        ValueError: the sets are not nested.
        NotDroppableError: a block cannot be dropped.

    Cost: a refit per set, and the clock's seconds per size. Memory: the model once, and per size the layers that its
    repair changed.

    Example:
        >>> from resnet_paths import load_data, load_model, unroll
        >>> data, clock = load_data("digits", "train").sample(80), Clock(batch=8, seconds=0.01, rounds=3)
        >>> model = elastic(unroll(load_model("embedded")), [[21], [21, 23], [21, 23, 25]], data, clock=clock)
        >>> model.budget = 1.0
        >>> model.level, model.dropped[2], model(data.x[:2]).shape
        (0, ('layer3.3', 'layer3.5'), torch.Size([2, 10]))
    """
    indices = [frozenset(net.indices(blocks)) for blocks in sets]
    for smaller, larger in itertools.pairwise([frozenset(), *indices]):
        if not smaller < larger:
            raise ValueError(
                f"expected nested sets of blocks, each larger than the previous one, got {sorted(smaller)} and then "
                f"{sorted(larger)}"
            )
    refitter, clock = Refitter(net, images, settings=settings), clock or Clock()
    full = private_copy(net.model)
    results = [refitter(sorted(dropped)) for dropped in indices]
    unshared = [share_weights(result.model, full) for result in results]
    sizes = [full, *(result.model for result in results)]
    x = as_inputs(images, net.model).take(slice(0, clock.batch))
    timings = latencies_in_turn(
        sizes, placed_input(x, full), seconds=clock.seconds, threads=clock.threads, rounds=clock.rounds
    )
    costs = [1.0, *(timing.median / timings[0].median for timing in timings[1:])]
    total = sum(tensor.numel() for tensor in full.state_dict().values())
    return Elastic(sizes, [(), *(result.dropped for result in results)], costs, [total, *unshared])
