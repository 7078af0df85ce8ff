"""Run the blocks of a model in another order."""

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

    Position i runs the block ``order[i]``; its name in the new model is that of the position. Two blocks can be
    exchanged if their input and output shapes agree and each is a module of its own. The blocks of one module
    (attention and MLP of a transformer layer) move together. To evaluate the new order at gates, unroll the result.

    Args:
        model: any residual model, or its unrolled network.
        order: every block once, by index or name (None: the original order).
        swaps: pairs of blocks to exchange, one pair after the other, as in the paper. A reference means the position
            in the original order.
        example_input: an input, for the blocks' shapes; not needed if the unrolled network has seen one.

    Returns:
        A deep copy of the model, with the same class and state dict keys.

    Raises:
        ValueError: `order` is not a permutation of the blocks, two blocks differ in shape, or there is no example
            input.
        NotDroppableError: a block is not a module of its own, or only half of a module.

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
    moved = [(position, source) for position, source in enumerate(sources) if position != source]
    if not moved:
        return copied(net.model)
    _check_shapes(net, moved, net._example if example_input is None else example_input)
    target = copied(net.model)
    exchanged = {
        id(target.get_submodule(replaced.path)): target.get_submodule(source.path)
        for replaced, source in _modules(net, sources)
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
            f"expected each of the {len(net)} blocks once, got {len(indices)}; also list the blocks that stay, or use "
            "swaps=[(i, j), ...]"
        )
    for pair in swaps:
        one, other = net.indices(pair)
        indices[one], indices[other] = indices[other], indices[one]
    return indices


def _check_shapes(net: UnrolledNetwork, moved: list[tuple[int, int]], example: Any) -> None:
    if example is None:
        raise ValueError("expected an input to determine the blocks' shapes, got none; pass example_input")
    shapes = block_shapes(net, example)
    for position, source in moved:
        if shapes[position] != shapes[source]:
            (entry, leave), (other_entry, other_leave) = shapes[position], shapes[source]
            raise ValueError(
                f"expected blocks of the same shapes, got block {source} ({net[source].name}), {other_entry} to "
                f"{other_leave}, in place of block {position} ({net[position].name}), {entry} to {leave}; exchange "
                "blocks of one stage, and leave those that change the shape where they are"
            )


def block_shapes(net: UnrolledNetwork, example: Any) -> list[Shapes]:
    """The shapes of each block's input and output, without the batch."""
    shapes = []
    with preserved(net.model), torch.no_grad():
        state = net.stem(example)
        while state.index < len(net):
            total = net.shortcut(state) + net.branch(state)
            shapes.append((tuple(state.value.shape[1:]), tuple(total.shape[1:])))
            state = net.join(state, total)
    return shapes


def _modules(net: UnrolledNetwork, sources: list[int]) -> list[tuple[ModuleCall, ModuleCall]]:
    """Each module whose blocks are replaced, with the module that replaces it."""
    plan = net.segments
    find = site_finder(plan.program)
    modules = [find(cut) for cut in plan.cuts]
    members = {module: [i for i, other in enumerate(modules) if other is module] for module in modules}
    pairs = []
    for module, indices in members.items():
        replacements = [sources[index] for index in indices]
        if replacements == indices:
            continue
        if not module.path:
            raise NotDroppableError(
                f"expected blocks that are modules of their own, but {type(net.model).__name__}.forward itself makes "
                f"the addition of block {indices[0]} ({net[indices[0]].name}), or runs its module twice; use "
                "net.step(state) on the unrolled network to run its blocks one by one"
            )
        source = modules[replacements[0]]
        if members[source] != replacements:
            names = ", ".join(f"{index} ({net[index].name})" for index in replacements)
            raise NotDroppableError(
                f"expected the blocks of one module, in their order, for the positions {indices} in {module.path}, got "
                f"{names}; move the blocks of a module together"
            )
        pairs.append((module, source))
    return pairs
