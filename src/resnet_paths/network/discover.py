"""Finding the residual blocks of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from torch import nn

from ..arguments import ELSEWHERE, checked
from ..graph.closing import closed_modules
from ..graph.errors import NoBlocksError, OutputError, UnrollError
from ..graph.program import Program
from ..graph.tracing import trace
from ..graph.trees import leaves, map_leaves
from ..graph.wrappers import unwrap
from ..warned import warn
from .unrolled import Output, UnrolledNetwork
from .verify import verify

KNOWN_FAMILIES = (
    "ResNet, ResNeXt, Wide ResNet, RegNet, ConvNeXt, MobileNet v2/v3, EfficientNet, MNASNet, ViT, Swin, "
    "MaxViT (torchvision); ResNet-D, ResNetV2, SE-ResNet, ResNeSt, Res2Net, NFNet, DeiT, BEiT, Mixer, PoolFormer, "
    "Inception-ResNet, Xception (timm); ResNet, ConvNeXt, ViT (Hugging Face, with example_input)"
)


@checked
def unroll(
    model: Annotated[nn.Module, ELSEWHERE], example_input: Any = None, *, output: Output = None
) -> UnrolledNetwork:
    """Find the residual blocks of any model by analysing its graph.

    An addition is a block when its terms rejoin at one value x that everything passes through:
    ``y = post(shortcut(x) + branch(x))`` (the view of Veit, Wilber and Belongie 2016, section 3). The graph
    is traced symbolically; where that finds no blocks, or leaves modules closed, and an example is given, one run
    on the example is recorded instead. The model is left exactly as it was.

    Args:
        model: any module; wrappers (``DataParallel``, DDP, ``torch.compile``) are looked through.
        example_input: an input of the model (tensor, tuple of positional or dict of keyword arguments), batch
            first; needed for models that cannot be traced symbolically (Hugging Face), and otherwise used to
            fill in the shapes and to check the network against the model. Moved to where the model is.
        output: which of several outputs to follow: its key or position, or a tuple of them where outputs are nested.
            None: ``logits`` if there is such a key, else the one with the most blocks behind it.

    Returns:
        The unrolled network, in whose table each block has an index and a name.

    Raises:
        NoBlocksError: no addition is a residual block; the message says why each was refused.
        TraceError: the model's operations could not be followed.
        UnrollError: scripted model; or the unrolled network does not reproduce the model on the example.
        ValueError: an empty path as `output`.

    Cost: 0.05 to 0.5 s; with an example, a few forward passes more.

    Example:
        >>> import torch, torchvision
        >>> net = unroll(torchvision.models.resnet18().eval(), torch.randn(1, 3, 32, 32))
        >>> net["layer2.0"].shortcut, net["layer2.0"].entry_shape
        ('projection', (64, 8, 8))
    """
    if isinstance(output, list):  # as JSON has it
        output = tuple(output)
    if output == ():
        raise ValueError("expected output as a name, a number or a path of these, got an empty one")
    return network_of(model, example_input, output)


def network_of(model: nn.Module, example_input: Any, output: Output, *, overwrite: bool = False) -> UnrolledNetwork:
    """As :func:`unroll`; with `overwrite`, evaluations may write over values that nobody else reads."""
    model = unwrap(model)
    example_input = _where_the_model_is(example_input, model)
    attempts: list[str] = []
    follow = partial(UnrolledNetwork, model, example=example_input, output=output, overwrite=overwrite)
    traced = _attempt(follow, partial(trace, model), example_input, attempts)
    if traced is not None and example_input is None:
        _warn_of_closed_modules(traced)
    if traced is not None and (example_input is None or not traced.opaque):
        return traced
    recorded = None
    if example_input is not None:
        from ..graph.recording import record

        recorded = _attempt(follow, partial(record, model, example_input), example_input, attempts)
    found = [net for net in (traced, recorded) if net is not None]
    if found:
        return max(found, key=len)
    raise NoBlocksError(_explain(model, attempts, example_input is None))


def _where_the_model_is(example: Any, model: nn.Module) -> Any:
    """The example on the model's device; as it is where the model is on several."""
    devices = {parameter.device for parameter in model.parameters()}
    tensors = [leaf for leaf in leaves(example) if isinstance(leaf, torch.Tensor)]
    if len(devices) != 1 or devices == {torch.device("meta")} or {leaf.device for leaf in tensors} <= devices:
        return example
    device = devices.pop()
    return map_leaves(example, lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf)


def _attempt(
    follow: Callable[..., UnrolledNetwork], front_end: Callable[[], Program], example: Any, attempts: list[str]
) -> UnrolledNetwork | None:
    """A network by one front end that reproduces the example; None, and why in `attempts`, otherwise."""
    name = front_end.func.__name__ if isinstance(front_end, partial) else "front end"
    try:
        net = follow(front_end=front_end)
        if not len(net):
            attempts.append(_refused(name, net))
            return None
        if example is not None:
            verify(net, example)
    except OutputError:
        raise
    except UnrollError as error:
        attempts.append(f"{name}: {error}")
        return None
    return net


def _warn_of_closed_modules(net: UnrolledNetwork) -> None:
    closed = closed_modules(net.model, net.opaque)
    if closed:
        warn(
            f"{', '.join(closed)} could not be looked into without an input, so the blocks in there are not among the "
            f"{len(net)} found; pass example_input=... to unroll",
        )


def _refused(name: str, net: UnrolledNetwork, most: int = 8) -> str:
    refusals = [str(refusal) for refusal in net.refusals]
    closed = [f"{path} was kept closed ({reason})" for path, reason in net.opaque.items()]
    if not refusals and not closed:
        return f"{name}: the model adds no two values of its own{_concatenated(net)}"
    lines = [*refusals, *closed]
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return f"{name}: no addition is a residual block\n    " + "\n    ".join([*lines[:most], *more])


def _concatenated(net: UnrolledNetwork) -> str:
    """What a dense network does instead."""
    times = net.concatenations
    return f"; it concatenates (torch.cat, {times} in all), as DenseNets do, which makes no shortcut" if times else ""


def _explain(model: nn.Module, attempts: list[str], without_example: bool) -> str:
    hint = (
        "pass example_input=..., so that one run can be recorded where tracing does not suffice; "
        if without_example
        else ""
    )
    tried = "\n  ".join(attempts)
    return (
        f"expected a model with residual blocks y = shortcut(x) + branch(x), got {type(model).__name__} with "
        f"none.\n  {tried}\nWhat to do: {hint}known to work: {KNOWN_FAMILIES}."
    )
