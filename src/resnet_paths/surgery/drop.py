"""Taking the branches of units out of a real model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from ..unroll import NotDroppableError, UnitRef, UnrolledNetwork, unroll
from ..unroll._program import ModuleCall, Program
from ..unroll._units import Cut
from ._body import Body, place_of, rebuilt

Units = Sequence[UnitRef] | UnitRef


def drop_blocks(
    model: nn.Module | UnrolledNetwork, units: Units, *, example_input: Any = None, inplace: bool = False
) -> nn.Module:
    """A smaller, ordinary model without the branches of some units.

    Each unit ``post(shortcut(x) + branch(x))`` becomes ``post(shortcut(x))``: what the network at a gate of 0
    computes, with the branch's parameters and time really gone (the lesion of Veit, Wilber and Belongie 2016,
    section 4.1). A block that is a module of its own is replaced in its place: the model's class, the keys of
    everything that is kept and the hooks stay. Half of a module with two units (a transformer layer's
    attention) can be dropped too. Where the model's own forward makes the addition, the result is a
    ``torch.fx.GraphModule``.

    Args:
        model: any residual model, or its unrolled network.
        units: indices (negative from the end) or names.
        example_input: see :func:`resnet_paths.unroll`; for models that cannot be traced symbolically.
        inplace: change the model itself.

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
    program, places = _places(net, net.indices(units))
    if inplace and any(not place.path for place in places):
        raise NotDroppableError(
            f"expected units that are modules of their own, but {type(net.model).__name__}.forward itself makes the "
            "addition; use inplace=False, which returns another model"
        )
    target = net.model if inplace else copy.deepcopy(net.model)
    for place, cuts in places.items():
        module = target.get_submodule(place.path)
        smaller = rebuilt(module, Body(program, place, cuts))
        if not place.path:
            return smaller
        _put(target, place.path, smaller)
    return target


def _places(net: UnrolledNetwork, indices: list[int]) -> tuple[Program, dict[ModuleCall, list[Cut]]]:
    """The calls to rewrite, inner before outer, each with its units."""
    plan = net.segments
    places: dict[ModuleCall, list[Cut]] = {}
    for index in indices:
        if plan.exporting[index]:
            raise NotDroppableError(
                f"expected a unit whose branch nothing else reads, got unit {index} ({net[index].name}), whose branch "
                "makes values that later operations need"
            )
        cut = plan.cuts[index]
        places.setdefault(place_of(cut, plan.program), []).append(cut)
    depth = {place: len(list(place.ancestors())) for place in places}
    return plan.program, {place: places[place] for place in sorted(places, key=lambda place: -depth[place])}


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module


@contextmanager
def lesioned(model: nn.Module | UnrolledNetwork, units: Units, *, example_input: Any = None) -> Iterator[nn.Module]:
    """Within the block the model itself runs without the branches of some units; after it, it is as before.

    Restored, also after an exception: the modules that were replaced, and each module's train flag. Parameters
    are shared, not copied, so training within the block changes the model.

    Args:
        model: any residual model, or its unrolled network.
        units: indices or names.
        example_input: see :func:`resnet_paths.unroll`.

    Yields:
        The model.

    Example:
        >>> import torch, torchvision
        >>> model = torchvision.models.resnet18().eval()
        >>> x = torch.randn(1, 3, 32, 32)
        >>> with lesioned(model, [3, 7]):
        ...     damaged = model(x)
        >>> torch.equal(damaged, drop_blocks(model, [3, 7])(x))
        True
    """
    net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
    target = net.model
    program, places = _places(net, net.indices(units))
    flags = [(module, module.training) for module in target.modules()]
    undo: list[tuple[str, nn.Module]] = []
    forward = target.__dict__.get("forward")
    try:
        for place, cuts in places.items():
            module = target.get_submodule(place.path)
            smaller = rebuilt(module, Body(program, place, cuts))
            if place.path:
                undo.append((place.path, module))
                _put(target, place.path, smaller)
            else:
                _run_instead(target, smaller)
        yield target
    finally:
        if forward is not None:
            target.__dict__["forward"] = forward
        else:
            target.__dict__.pop("forward", None)
        for path, module in reversed(undo):
            _put(target, path, module)
        for module, flag in flags:
            module.training = flag


def _run_instead(target: nn.Module, smaller: nn.Module) -> None:
    """Let a model compute another forward over its own parts."""
    if not isinstance(smaller, fx.GraphModule):
        raise NotDroppableError("expected a model that does something besides its dropped units, got one that does not")
    target.__dict__["forward"] = smaller.forward
