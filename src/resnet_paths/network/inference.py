"""A network prepared for many evaluations: norms folded into convolutions, weights stored channels last."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.utils import fusion

from ..arguments import checked
from ..graph.errors import UnrollError
from ..graph.eval_mode import check_eval
from ..graph.private_copy import private_copy
from ..graph.program import Program
from .discover import network_of
from .unrolled import UnrolledNetwork

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@checked
def for_inference(
    net: UnrolledNetwork,
    *,
    fold: bool = True,
    channels_last: bool = True,
    dtype: torch.dtype | None = None,
) -> UnrolledNetwork:
    """The same network over a faster copy of its model.

    A batch norm in eval mode after a convolution is an affine map of the convolution's output, and is folded into its
    weights: ``W' = W γ/√(σ²+ε)``, ``b' = (b - μ) γ/√(σ²+ε) + β``. Convolution weights are stored channels last.
    The blocks keep their indices and names. Evaluate it under ``torch.inference_mode()``.

    Args:
        net: an unrolled network in eval mode; neither it nor its model is changed.
        fold: whether to fold batch norms.
        channels_last: whether to store 4- and 5-dimensional weights channels last.
        dtype: the type to convert the copy to; inputs must then have this type. bfloat16 changes the numbers.

    Raises:
        UnrollError: the model is in training mode, where norms are not affine.

    Accuracy: 1e-10 relative in float64, 1e-4 in float32. Cost: a copy of the model, and unrolling it.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18().eval())
        >>> fast = for_inference(net)
        >>> x = torch.randn(2, 3, 32, 32)
        >>> with torch.inference_mode():
        ...     bool(torch.allclose(fast(x), net(x), rtol=1e-4, atol=1e-4))
        True
    """
    check_eval(net.model)
    program = net.segments.program
    model = private_copy(net.model).requires_grad_(False)
    if fold:
        for convolution, norm in foldable(program):
            _fold(model, convolution, norm)
    if dtype is not None:
        model.to(dtype)
    if channels_last:
        _store_channels_last(model)
    fast = network_of(model, _cast(net._example, dtype), net.output, overwrite=True)
    if len(fast) != len(net):
        raise UnrollError(f"expected {len(net)} blocks after folding, got {len(fast)}; use fold=False")
    fast._blocks = net.blocks
    return fast


def foldable(program: Program) -> list[tuple[str, str]]:
    """The (convolution, norm) pairs, by qualified name, in which only the norm reads the convolution's output."""
    uses: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.op == "call_module":
            uses[str(node.target)] = uses.get(str(node.target), 0) + 1
    pairs = []
    for node in program.graph.nodes:
        pair = _pair(node, program)
        if pair is not None and all(uses[name] == 1 for name in pair):
            pairs.append(pair)
    return pairs


def _pair(node: fx.Node, program: Program) -> tuple[str, str] | None:
    if node.op != "call_module" or type(program.model.get_submodule(str(node.target))) not in _NORMS:
        return None
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    convolution = program.model.get_submodule(str(source.target))
    norm = program.model.get_submodule(str(node.target))
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in (convolution, norm))
    has_statistics = getattr(norm, "running_mean", None) is not None
    if type(convolution) not in _CONVOLUTIONS or hooked or not has_statistics:
        return None
    return str(source.target), str(node.target)


def _fold(model: nn.Module, convolution: str, norm: str) -> None:
    fused = fusion.fuse_conv_bn_eval(model.get_submodule(convolution), model.get_submodule(norm))  # type: ignore
    _put(model, convolution, fused)
    _put(model, norm, nn.Identity().eval())


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _store_channels_last(model: nn.Module) -> None:
    """Store the weights of 2-d and 3-d convolutions channels last; a model may have both."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def _cast(example: object, dtype: torch.dtype | None) -> object:
    if isinstance(example, torch.Tensor):
        return example.to(dtype) if dtype is not None and example.is_floating_point() else example
    if isinstance(example, tuple):
        return tuple(_cast(item, dtype) for item in example)
    if isinstance(example, dict):
        return {key: _cast(item, dtype) for key, item in example.items()}
    return example
