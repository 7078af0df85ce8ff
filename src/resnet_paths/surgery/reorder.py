"""Running the units of a model in another order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..unroll import NotDroppableError, UnitRef, UnrolledNetwork, unroll
from ._body import place_of


def reorder_blocks(
    model: nn.Module | UnrolledNetwork, order: Sequence[UnitRef], *, example_input: Any = None
) -> nn.Module:
    """A copy of a model whose units run in another order (Veit, Wilber and Belongie 2016, section 4.3).

    Position i runs the unit ``order[i]``. Only units with an identity shortcut and the same input shape can change
    places, and only those that are modules of their own.

    Args:
        model: any residual model, or its unrolled network.
        order: every unit once, by index or name.
        example_input: an input, for the shapes of the units.

    Raises:
        ValueError: not a permutation of the units, or two units whose shapes do not fit.
        NotDroppableError: a unit that is not a module of its own.

    Example:
        >>> import torch
        >>> from resnet_paths.models import cifar_resnet
        >>> model = cifar_resnet(20, seed=0).eval()
        >>> moved = reorder_blocks(model, [0, 2, 1, *range(3, 9)], example_input=torch.randn(1, 3, 8, 8))
        >>> torch.equal(moved.layer1[1].conv1.weight, model.layer1[2].conv1.weight)
        True
    """
    net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
    indices = net.indices(order)
    if len(indices) != len(net):
        raise ValueError(f"expected each of the {len(net)} units once, got {len(indices)}")
    moved = [(place, source) for place, source in enumerate(indices) if place != source]
    plan = net.segments
    paths = {place: place_of(plan.cuts[place], plan.program).path for place, _ in moved}
    for place, source in moved:
        _check(net, place, source, paths, moved)
    target = copy.deepcopy(net.model)
    modules = {source: target.get_submodule(paths[source]) for _, source in moved}
    for place, source in moved:
        parent, _, name = paths[place].rpartition(".")
        target.get_submodule(parent)._modules[name] = modules[source]
    return target


def _check(net: UnrolledNetwork, place: int, source: int, paths: dict[int, str], moved: list[tuple[int, int]]) -> None:
    one, other = net[place], net[source]
    if one.entry_shape is None or other.entry_shape is None:
        raise ValueError("expected the units' shapes to be known; pass example_input, so that they can be seen")
    for unit in (one, other):
        if unit.shortcut != "identity":
            raise ValueError(
                f"expected units with an identity shortcut, got unit {unit.index} ({unit.name}) with a {unit.shortcut} "
                "one, which changes the shape; leave it in its place"
            )
    if one.entry_shape != other.entry_shape:
        raise ValueError(
            f"expected units of one shape, got unit {other.index} ({other.name}) of {other.entry_shape} for the place "
            f"of unit {one.index} ({one.name}) of {one.entry_shape}"
        )
    whole = net.segments
    owners = [place_of(cut, whole.program).path for cut in whole.cuts]
    if not paths[place] or owners.count(paths[place]) > 1:
        raise NotDroppableError(
            f"expected units that are modules of their own, but {paths[place] or 'the model'} holds more than unit "
            f"{place} ({one.name})"
        )
