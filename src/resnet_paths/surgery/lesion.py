"""A model without the branches of some units for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import fx, nn

from ..network import NotDroppableError, UnrolledNetwork, unroll
from ._body import Body
from ._places import places
from .drop import Units

_MARK = "_resnet_paths_lesion"


@contextmanager
def lesioned(model: nn.Module | UnrolledNetwork, units: Units, example_input: Any = None) -> Iterator[nn.Module]:
    """Within the block the model itself runs without the branches of some units; after it, it is as before.

    The modules that make the additions get another forward for a while; modules, parameters, hooks and names all
    stay, so training within the block trains the model. Restored, also after an exception: each forward and each
    module's train flag. Blocks can be nested.

    Args:
        model: any residual model, or its unrolled network.
        units: indices or names.
        example_input: see :func:`resnet_paths.unroll`.

    Yields:
        The model.

    Raises:
        UnitIndexError: there is no such unit, or one is given twice.
        NotDroppableError: a unit cannot be taken out; the message says why.

    Cost: one trace (none for an unrolled network); no copy.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.surgery import drop_blocks
        >>> model = torchvision.models.resnet18().eval()
        >>> x = torch.randn(1, 3, 32, 32)
        >>> with lesioned(model, [3, 7]):
        ...     damaged = model(x)
        >>> torch.equal(damaged, drop_blocks(model, [3, 7])(x))
        True
    """
    given = isinstance(model, UnrolledNetwork)
    net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
    indices = net.indices(units)
    found = places(net, [*_already(net, given), *(i for i in indices if i not in _already(net, given))])
    flags = [(module, module.training) for module in net.model.modules()]
    with ExitStack() as stack:
        stack.callback(_set_flags, flags)
        for body in found:
            stack.enter_context(_another_forward(body, net, indices))
        yield net.model


def _already(net: UnrolledNetwork, given: bool) -> list[int]:
    """The units that a block around this one has taken out, where `net` was made before it and does not know."""
    found: list[int] = []
    for module in net.model.modules():
        other, indices = getattr(type(module), _MARK, (None, []))
        if given and other is not None and other is not net:
            raise NotDroppableError(
                "expected the model itself, or the unrolled network of the block around this one, got another "
                "unrolled network of a model that is lesioned already; pass the model"
            )
        if other is net:
            found.extend(index for index in indices if index not in found)
    return found


@contextmanager
def _another_forward(body: Body, net: UnrolledNetwork, indices: list[int]) -> Iterator[None]:
    """Within the block a module is of a class with the same name, derived from its own, with the body as forward."""
    module = body.place.module
    own = type(module)
    names = {
        "forward": _function(body),
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        _MARK: (net, indices),
    }
    changed = type(own.__name__, (own,), {**body.constants, **names})
    instance = module.__dict__.pop("forward", None)
    try:
        module.__class__ = changed
        yield
    finally:
        module.__class__ = own
        if instance is not None:
            module.__dict__["forward"] = instance


def _function(body: Body) -> Callable[..., Any]:
    """The body as a function of the module itself."""
    graph = body.write()
    used = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
    stand_ins = {target: nn.Identity() for target in used}
    forward: Callable[..., Any] = type(fx.GraphModule(stand_ins, graph)).forward
    return forward


def _set_flags(flags: list[tuple[nn.Module, bool]]) -> None:
    for module, flag in flags:
        module.training = flag
