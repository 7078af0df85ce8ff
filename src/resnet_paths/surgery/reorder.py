"""Running the blocks of a model in another order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..graph.copying import copied
from ..graph.drop_sites import site_finder
from ..graph.preserve import preserved
from ..graph.program import ModuleCall
from ..network import BlockRef, NotDroppableError, UnrolledNetwork, unroll

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@checked
def reorder_blocks(
    model: nn.Module | UnrolledNetwork,
    order: Sequence[BlockRef] | None = None,
    *,
    swaps: Iterable[tuple[BlockRef, BlockRef]] = (),
    example_input: Any = None,
) -> nn.Module:
    """A copy of a model whose blocks run in another order (Veit, Wilber and Belongie 2016, section 4.3).

    Position i runs the block ``order[i]``; its name in the new model is that of the position. Blocks change places
    when the shapes of what enters and what leaves them are the same, and they are modules of their own. The blocks
    of one module (attention and MLP of a transformer layer) move together. To evaluate the new order at gates,
    unroll the result.

    Args:
        model: any residual model, or its unrolled network.
        order: every block once, by index or name (None: as they are).
        swaps: pairs of blocks to exchange, one pair after the other, as in the paper. A reference means the position
            in the original order.
        example_input: an input, for the blocks' shapes; not needed where the unrolled network has seen one.

    Returns:
        A deep copy of the model; the model's class and the keys of its state dict stay.

    Raises:
        ValueError: not a permutation of the blocks, or two blocks whose shapes do not fit; no example input.
        NotDroppableError: a block that is not a module of its own, or half of a module.

    Cost: one copy of the model, one trace and one forward pass.

    Example:
        >>> import torch
        >>> from resnet_paths.models import cifar_resnet
        >>> model = cifar_resnet(20, seed=0).eval()
        >>> moved = reorder_blocks(model, swaps=[(1, 2)], example_input=torch.randn(1, 3, 8, 8))
        >>> torch.equal(moved.layer1[1].conv1.weight, model.layer1[2].conv1.weight)
        True
    """
    net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
    sources = _order(net, order, swaps)
    moved = [(place, source) for place, source in enumerate(sources) if place != source]
    if not moved:
        return copied(net.model)
    _check_shapes(net, moved, net._example if example_input is None else example_input)
    target = copied(net.model)
    exchanged = {
        id(target.get_submodule(place.path)): target.get_submodule(source.path)
        for place, source in _modules(net, sources)
    }
    for parent in list(target.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = exchanged.get(id(child), child)
    return target


def _order(
    net: UnrolledNetwork, order: Sequence[BlockRef] | None, swaps: Iterable[tuple[BlockRef, BlockRef]]
) -> list[int]:
    indices = list(range(len(net))) if order is None else net.indices(order)
    if len(indices) != len(net):
        raise ValueError(
            f"expected each of the {len(net)} blocks once, got {len(indices)}; list also the blocks that stay, or use "
            "swaps=[(i, j), ...]"
        )
    for pair in swaps:
        one, other = net.indices(pair)
        indices[one], indices[other] = indices[other], indices[one]
    return indices


def _check_shapes(net: UnrolledNetwork, moved: list[tuple[int, int]], example: Any) -> None:
    if example is None:
        raise ValueError("expected an input from which the blocks' shapes can be seen, got none; pass example_input")
    shapes = block_shapes(net, example)
    for place, source in moved:
        if shapes[place] != shapes[source]:
            (entry, leave), (other_entry, other_leave) = shapes[place], shapes[source]
            raise ValueError(
                f"expected blocks of the same shapes, got block {source} ({net[source].name}), {other_entry} to "
                f"{other_leave}, for the place of block {place} ({net[place].name}), {entry} to {leave}; exchange "
                "blocks of one stage, and leave those that change the shape in their places"
            )


def block_shapes(net: UnrolledNetwork, example: Any) -> list[Shapes]:
    """The shapes of what enters and what leaves each block, without the batch."""
    found = []
    with preserved(net.model), torch.no_grad():
        state = net.stem(example)
        while state.index < len(net):
            total = net.shortcut(state) + net.branch(state)
            found.append((tuple(state.value.shape[1:]), tuple(total.shape[1:])))
            state = net.join(state, total)
    return found


def _modules(net: UnrolledNetwork, sources: list[int]) -> list[tuple[ModuleCall, ModuleCall]]:
    """For each module whose blocks are replaced, it and the module that comes in its place."""
    plan = net.segments
    find = site_finder(plan.program)
    places = [find(cut) for cut in plan.cuts]
    members = {place: [i for i, other in enumerate(places) if other is place] for place in places}
    pairs = []
    for place, indices in members.items():
        wanted = [sources[index] for index in indices]
        if wanted == indices:
            continue
        if not place.path:
            raise NotDroppableError(
                f"expected blocks that are modules of their own, but {type(net.model).__name__}.forward itself makes "
                f"the addition of block {indices[0]} ({net[indices[0]].name}), or runs its module twice; use "
                "net.step(state) on the unrolled network to run its blocks one by one"
            )
        source = places[wanted[0]]
        if members[source] != wanted:
            names = ", ".join(f"{index} ({net[index].name})" for index in wanted)
            raise NotDroppableError(
                f"expected the blocks of one module, in their order, for the places {indices} in {place.path}, got "
                f"{names}; move the blocks of a module together"
            )
        pairs.append((place, source))
    return pairs
