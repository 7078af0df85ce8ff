"""A network prepared for many evaluations: norms folded into convolutions, weights stored channels last.

One copy serves two callers. `for_inference` folds once, with the model's own weights. A surface over weights or gates
moves the model from cell to cell and folds the same pairs again at each, from other weights or other statistics; hence
`FoldedCopy`, which remembers which convolution took up which norm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..arguments import checked
from ..graph.errors import UnrollError
from ..graph.eval_mode import check_eval
from ..graph.hooks import is_hooked
from ..graph.private_copy import private_copy
from ..graph.program import Program
from ..graph.trees import DICTS
from .discover import network_of
from .norms import BatchNorm, batch_norms
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

    Accuracy: 1e-10 relative in float64, 1e-4 in float32. Cost: a copy of the model, and half of unrolling it.

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
    return inference_copy(net, fold=fold, channels_last=channels_last, dtype=dtype)[0]


def inference_copy(
    net: UnrolledNetwork, *, fold: bool, channels_last: bool, dtype: torch.dtype | None
) -> tuple[UnrolledNetwork, FoldedCopy]:
    """The network of :func:`for_inference`, and the copy under it, to be folded again.

    Raises:
        UnrollError: the model is in training mode, or the copy has other blocks.
    """
    check_eval(net.model)
    program = net.segments.program if fold else None
    copy = FoldedCopy(net.model, lambda _: program)
    copy.store(channels_last=channels_last, dtype=dtype)
    copy.fold(dict(net.model.named_parameters()).__getitem__)
    fast = net.on_copy(copy.model, copy.exchanged, overwrite=True)
    if fast is None:
        # A graph in another type has to be found again: in a copy that is not folded, since a forward may look at what
        # folding exchanges (``if isinstance(self.norm, nn.BatchNorm2d)``).
        plain = private_copy(net.model).eval().requires_grad_(False).to(dtype)
        converted = network_of(plain, _cast(net._example, dtype), net.output, overwrite=True)
        fast = converted.on_copy(copy.model, copy.exchanged, overwrite=True)
        if fast is None and copy.exchanged:
            return inference_copy(net, fold=False, channels_last=channels_last, dtype=dtype)
        if fast is None:
            fast = network_of(copy.model, _cast(net._example, dtype), net.output, overwrite=True)
    if len(fast) != len(net):
        raise UnrollError(f"expected a copy with the model's {len(net)} blocks, got {len(fast)}")
    fast._blocks = net.blocks
    return fast, copy


class FoldedCopy:
    """A private copy of a model, in eval mode and without gradients, whose norms can be folded again and again.

    Attributes:
        model: the copy.
        program: the graph that shows which norms can be folded; None where none was requested or found.
        folded: the number of norms folded.
        exchanged: the names of these norms and of the convolutions that took them up.
        names: of each parameter that was not replaced, by its path in the copy, its name in the model: two modules may
            share one, and only one of them be folded.
    """

    def __init__(self, model: nn.Module, find: Callable[[nn.Module], Program | None]) -> None:
        """The copy, not yet folded: its convolutions have no values before the first `fold`.

        Args:
            model: only read.
            find: the graph of the copy; None folds nothing.
        """
        self.model = private_copy(model).eval().requires_grad_(False)
        originals = dict(self.model.named_parameters())  # held, so that no other object takes an id
        names = {id(parameter): name for name, parameter in originals.items()}
        self.program = find(self.model)
        pairs = [] if self.program is None else foldable(self.program)
        self._pairs = [_Pair(self.model, convolution, norm, names) for convolution, norm in pairs]
        self.folded, self.exchanged = len(self._pairs), tuple(name for pair in pairs for name in pair)
        self.names = {path: names[id(p)] for path, p in self.model.named_parameters() if id(p) in names}
        self._norms = {name: norm for name, norm in batch_norms(self.model).items() if norm.running_mean is not None}

    def store(self, *, channels_last: bool, dtype: torch.dtype | None) -> None:
        """Convert the copy to a type, if one is given, and store weights of 4 and 5 dimensions channels last."""
        if dtype is not None:
            self.model.to(dtype)
        if channels_last:
            _store_channels_last(self.model)

    @torch.no_grad()
    def fold(self, value_of: Callable[[str], torch.Tensor], statistics: nn.Module | None = None) -> None:
        """Fold the norms from parameters by name, with the running statistics of a module (the model's by default).

        Norms that are not folded take the module's statistics as they are.
        """
        for pair in self._pairs:
            pair.fold(value_of, statistics)
        for name, norm in self._norms.items() if statistics is not None else ():
            _copy_statistics(norm, statistics.get_submodule(name))  # type: ignore[union-attr, arg-type]


def _copy_statistics(norm: BatchNorm, measured: BatchNorm) -> None:
    for name in ("running_mean", "running_var"):
        getattr(norm, name).copy_(getattr(measured, name))


def foldable(program: Program) -> list[tuple[str, str]]:
    """The (convolution, norm) pairs, by qualified name, that can become one convolution.

    Only the norm reads the convolution's output, both run once, and nothing else reads their tensors.
    """
    uses = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_module")
    read = program.tensors_read()
    return [
        pair
        for node in program.graph.nodes
        if (pair := _pair(node, program)) is not None
        and all(uses[name] == 1 and not _owns(program.module(name), read) for name in pair)
    ]


def _owns(module: nn.Module, ids: Collection[int]) -> bool:
    return any(id(tensor) in ids for tensor in (*module.parameters(), *module.buffers()))


def _pair(node: fx.Node, program: Program) -> tuple[str, str] | None:
    if node.op != "call_module" or type(program.module(str(node.target))) not in _NORMS:
        return None
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    convolution = program.module(str(source.target))
    norm = program.module(str(node.target))
    hooked = any(map(is_hooked, (convolution, norm)))
    has_statistics = getattr(norm, "running_mean", None) is not None
    if type(convolution) not in _CONVOLUTIONS or hooked or not has_statistics:
        return None
    return str(source.target), str(node.target)


class _Pair:
    """A convolution and the batch norm after it, in a model in which the norm now does nothing."""

    def __init__(self, model: nn.Module, convolution: str, norm: str, names: dict[int, str]) -> None:
        self._module: nn.Module = model.get_submodule(convolution)
        self._norm: nn.Module = model.get_submodule(norm)
        self._norm_path = norm
        self._named = {
            (kind, part): names[id(parameter)]
            for kind, module in (("convolution", self._module), ("norm", self._norm))
            for part, parameter in module.named_parameters(recurse=False)
        }
        weight: torch.Tensor = self._module.weight  # type: ignore[assignment]
        shift = weight.new_zeros(weight.shape[0])
        # New parameters: the old ones may be tied to other modules.
        self._module.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self._module.bias = nn.Parameter(shift, requires_grad=False)
        parent, _, name = norm.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity().eval())

    def fold(self, value_of: Callable[[str], torch.Tensor], statistics: nn.Module | None) -> None:
        """Set the convolution's weight and bias from the parameters that `value_of` gives by name."""
        source = self._norm if statistics is None else statistics.get_submodule(self._norm_path)
        values: dict[Any, Any] = {key: value_of(name) for key, name in self._named.items()}
        values |= {"mean": source.running_mean, "variance": source.running_var}
        # in the wider of the model's type and the copy's: a float64 copy of a float32 model is folded in float64
        dtype = torch.promote_types(values["convolution", "weight"].dtype, self._module.weight.dtype)  # type: ignore[arg-type]
        values = {key: value.to(dtype) for key, value in values.items()}
        weight, bias = fuse_conv_bn_weights(
            values["convolution", "weight"],
            values.get(("convolution", "bias")),
            values["mean"],
            values["variance"],
            self._norm.eps,  # type: ignore[arg-type]
            values.get(("norm", "weight")),
            values.get(("norm", "bias")),
        )
        self._module.weight.copy_(weight)  # type: ignore[operator]
        self._module.bias.copy_(bias)  # type: ignore[operator]


def _store_channels_last(model: nn.Module) -> None:
    """Store the weights of 2-d and 3-d convolutions channels last; a model may have both.

    With `contiguous`, not `to`: a weight with one input channel, or of one pixel, is contiguous in both formats and
    stays as it is. `to` would give it the strides of the other, which runs no faster here (measured on two ResNet-56),
    and for which a batched product of functorch has no rule: it would warn and loop.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def _cast(example: object, dtype: torch.dtype | None) -> object:
    if isinstance(example, torch.Tensor):
        return example.to(dtype) if dtype is not None and example.is_floating_point() else example
    if isinstance(example, tuple):
        return tuple(_cast(item, dtype) for item in example)
    if isinstance(example, DICTS):
        return {key: _cast(item, dtype) for key, item in example.items()}
    return example
