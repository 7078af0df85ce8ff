"""Find the residual blocks of a model: try the front ends in turn, and keep a network that reproduces the model.

Tracing comes first because it needs no input and is valid for all sizes. Recording is the fallback where tracing finds
nothing or has to close modules. Where both work, the network with more blocks is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from torch import nn

from ..arguments import ELSEWHERE, checked
from ..graph.errors import NoBlocksError, OutputError, UnrollError
from ..graph.opaque_modules import opaque_modules
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

    An addition is a block when one term, the shortcut, comes from a value x by a shallow path and the other, the
    branch, is a deeper function of x: ``y = post(shortcut(x) + branch(x))`` (the view of Veit, Wilber and Belongie
    2016, section 3). The graph is traced symbolically; if that finds no blocks, or leaves modules closed, and an
    example is given, a run on the example is recorded instead. The model is left exactly as it was.

    Args:
        model: any module; wrappers (``DataParallel``, DDP, ``torch.compile``) are unwrapped.
        example_input: an input of the model (tensor, tuple of positional or dict of keyword arguments), batch
            first; needed for models that cannot be traced symbolically (Hugging Face), and otherwise used to
            fill in the shapes and to check the network against the model. It is moved to the model's device.
        output: which of several outputs to use: its key or position, or a tuple of them if outputs are nested.
            None: ``logits`` if there is such a key, else the one that depends on the most blocks.

    Returns:
        The unrolled network. Its table lists each block with an index and a name.

    Raises:
        NoBlocksError: no addition is a residual block; the message says why each was refused.
        TraceError: the model's operations could not be followed.
        UnrollError: the model is scripted, or the unrolled network does not reproduce it on the example.
        ValueError: `output` is an empty path.

    Cost: 0.05 to 0.5 s; with an example, a few more forward passes.

    Example:
        >>> import torch, torchvision
        >>> net = unroll(torchvision.models.resnet18().eval(), torch.randn(1, 3, 32, 32))
        >>> net["layer2.0"].shortcut, net["layer2.0"].entry_shape
        ('projection', (64, 8, 8))
    """
    if isinstance(output, list):  # JSON has no tuples
        output = tuple(output)
    if output == ():
        raise ValueError("expected output as a key, a position or a path of these, got an empty path")
    return network_of(model, example_input, output)


def network_of(model: nn.Module, example_input: Any, output: Output, *, overwrite: bool = False) -> UnrolledNetwork:
    """Like :func:`unroll`; with `overwrite`, evaluations may overwrite values that nobody else reads."""
    model = unwrap(model)
    example_input = _on_device_of(example_input, model)
    attempts: list[str] = []
    follow = partial(UnrolledNetwork, model, example_input=example_input, output=output, overwrite=overwrite)
    traced = _attempt(follow, partial(trace, model), example_input, attempts)
    if traced is not None and example_input is None:
        _warn_of_opaque_modules(traced)
    if traced is not None and (example_input is None or not traced.opaque):
        return traced
    recorded = None
    if example_input is not None:
        from ..graph.recording import record

        recorded = _attempt(follow, partial(record, model, example_input), example_input, attempts)
    networks = [net for net in (traced, recorded) if net is not None]
    if networks:
        return max(networks, key=len)
    raise NoBlocksError(_explain(model, attempts, example_input is None))


def _on_device_of(example: Any, model: nn.Module) -> Any:
    """The example on the model's device; unchanged if the model is on several."""
    devices = {parameter.device for parameter in model.parameters()}
    tensors = [leaf for leaf in leaves(example) if isinstance(leaf, torch.Tensor)]
    if len(devices) != 1 or devices == {torch.device("meta")} or {leaf.device for leaf in tensors} <= devices:
        return example
    device = devices.pop()
    return map_leaves(example, lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf)


def _attempt(
    follow: Callable[..., UnrolledNetwork], front_end: Callable[[], Program], example: Any, attempts: list[str]
) -> UnrolledNetwork | None:
    """A network from one front end that reproduces the model on the example, or None (the reason is in `attempts`)."""
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


def _warn_of_opaque_modules(net: UnrolledNetwork) -> None:
    closed = opaque_modules(net.model, net.opaque)
    if closed:
        warn(
            f"{', '.join(closed)} could not be traced without an input, so blocks inside are not among the {len(net)} "
            "found; pass example_input=... to unroll",
        )


def _refused(name: str, net: UnrolledNetwork, most: int = 8) -> str:
    refusals = [str(refusal) for refusal in net.refusals]
    closed = [f"{path} was not traced ({reason})" for path, reason in net.opaque.items()]
    if not refusals and not closed:
        return f"{name}: the model never adds two of its values{_summed_otherwise(net)}{_concatenated(net)}"
    lines = [*refusals, *closed]
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return f"{name}: no addition is a residual block\n    " + "\n    ".join([*lines[:most], *more])


def _summed_otherwise(net: UnrolledNetwork) -> str:
    """A remark on operations that may add two values, but are not read as a sum of two terms."""
    names = ", ".join(net.other_sums)
    return f" by +, but it sums in another way ({names}); write the sum as x + f(x)" if names else ""


def _concatenated(net: UnrolledNetwork) -> str:
    """A remark on models that concatenate instead."""
    times = net.concatenations
    return f"; it concatenates (torch.cat, {times}x), as DenseNets do, which is not a shortcut" if times else ""


def _explain(model: nn.Module, attempts: list[str], without_example: bool) -> str:
    hint = (
        "pass example_input=..., so that a run can be recorded where tracing is not enough; " if without_example else ""
    )
    reasons = "\n  ".join(attempts)
    return (
        f"expected a model with residual blocks y = shortcut(x) + branch(x), got {type(model).__name__} with "
        f"none.\n  {reasons}\nWhat to do: {hint}known to work: {KNOWN_FAMILIES}."
    )
