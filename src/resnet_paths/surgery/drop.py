"""Taking the branches of units out of a real model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..network import NotDroppableError, UnitRef, UnrolledNetwork, unroll
from ._assemble import assembled, copied_into
from ._places import places, replace

Units = Sequence[UnitRef] | UnitRef


def drop_blocks(
    model: nn.Module | UnrolledNetwork, units: Units, *, example_input: Any = None, inplace: bool = False
) -> nn.Module:
    """A smaller, ordinary model without the branches of some units.

    Each unit ``post(shortcut(x) + branch(x))`` becomes ``post(shortcut(x))``: what the network at a gate of 0
    computes, with the branch's parameters and time really gone (the lesion of Veit, Wilber and Belongie 2016,
    section 4.1). A block that is a module of its own is replaced in its place: the model's class, the keys of
    everything that is kept and the hooks stay. Half of a module with two units (a transformer layer's
    attention) can be dropped too.

    A block is replaced by ``nn.Identity``, by an ``nn.Sequential`` of what it keeps, or by a
    ``torch.fx.GraphModule``; the last is the whole result where the model's own forward makes the addition, or
    runs the block twice. None of them needs this library. A block's forward is written out for the mode (train or
    eval) and the optional arguments with which it was traced; what its children do still follows the mode.

    Args:
        model: any residual model, or its unrolled network.
        units: indices (negative from the end) or names.
        example_input: see :func:`resnet_paths.unroll`; for models that cannot be traced symbolically.
        inplace: change the model itself; unroll it again afterwards.

    Returns:
        A deep copy of the model (the branches that go are not copied); with `inplace`, the model.

    Raises:
        UnitIndexError: there is no such unit, or one is given twice.
        NotDroppableError: a unit cannot be taken out; the message says why.

    Cost: one copy of the model and one trace.

    Example:
        >>> import torchvision
        >>> model = torchvision.models.resnet18().eval()
        >>> smaller = drop_blocks(model, [1, "layer3.1"])
        >>> type(smaller).__name__, sum(p.numel() for p in model.parameters())
        ('ResNet', 11689512)
        >>> sum(p.numel() for p in smaller.parameters())
        10434856
    """
    net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
    whole = net.model
    found = places(net, net.indices(units))
    if inplace and any(not body.place.path for body in found):
        raise NotDroppableError(
            f"expected units that are modules of their own, but {type(whole).__name__}.forward itself makes the "
            "addition, or runs the block twice; use inplace=False, which returns another model"
        )
    made = [(body.place.module, assembled(body, body.place.module)) for body in found]
    if inplace:
        for module, smaller in made:
            replace(whole, module, smaller)
        return whole
    memo: dict[int, Any] = {id(module): smaller for module, smaller in made}
    for _, smaller in made:
        copied_into(smaller, memo)
    result: nn.Module = copy.deepcopy(whole, memo)
    return result
