"""A network as a list of plain operations with their weights, for programs without PyTorch.

The operations are those of the network's graph, in its order, on the values of one image. The sum of a block carries
the block's index: with the block deleted it is the shortcut alone, and nothing that only its branch needs is computed.
So a program that implements the few operations below can delete any set of blocks. Any other operation is refused by
name, because skipping it would give wrong numbers.

===================  ==================================================================================================
``input``            the normalised image
``convolution``      ``weight`` (out, in / groups, height, width), perhaps ``bias``; ``stride``, ``padding``,
                     ``dilation`` as [vertical, horizontal], ``groups``
``linear``           ``weight`` (out, in), perhaps ``bias``
``affine``           ``scale`` and ``shift``, one number for each channel
``scale``            ``factor * x + shift``, two numbers
``sum``              the first value, and the others unless ``block`` is deleted
``add``              two values
``multiply``         a value times another, of the same shape or with one number for each channel
``mean``             over all pixels
``adaptive_pool``    means over the parts of a grid of the output's size; the parts are PyTorch's
``average_pool``     ``kernel``, ``stride``, ``padding`` as pairs; ``count_padding``: zeros around the image count
``max_pool``         ``kernel``, ``stride``, ``padding``, ``dilation`` as pairs
``slice``            ``starts`` and ``steps`` for channels, rows and columns
``pad``              with zeros: ``before``, for channels, rows and columns
``reshape``          the same numbers in another shape
activations          ``relu``, ``clip`` (``low``, ``high``), ``leaky_relu`` and ``elu`` (``slope``), ``sigmoid``,
                     ``tanh``, ``silu``, ``gelu``, ``gelu_tanh``, ``hardsigmoid``, ``hardswish``
===================  ==================================================================================================
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from ..arguments import checked
from ..graph import operations
from ..graph.compile_node import step_of
from ..graph.dataflow import ancestors, data_nodes
from ..graph.errors import UnrollError
from ..graph.eval_mode import check_eval
from ..graph.hooks import is_hooked
from ..graph.leaves import is_leaf
from ..graph.program import Program, call_of, map_nodes
from ..graph.tracing import trace
from .norms import scale_and_shift
from .unrolled import UnrolledNetwork


class NoArithmeticError(ValueError):
    """A network has an operation that is not among the plain ones; the message names it."""


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation; the module's docstring lists them.

    Attributes:
        does: name of the operation.
        of: positions of the values that it reads, in the list of all operations.
        shape: shape of its result for one image.
        settings: numbers that say how, and `block` for the sum of a block.
        tensors: weights by name.
    """

    does: str
    of: tuple[int, ...]
    shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


@checked
def plain_operations(net: UnrolledNetwork, x: torch.Tensor) -> tuple[Operation, ...]:
    """The operations of a network, each after those that it reads; the last one gives the logits.

    Args:
        net: the network, in eval mode; :func:`half_precision_copy` has fewer operations and shorter weights.
        x: at least two normalised images, which show the shapes of all values.

    Raises:
        NoArithmeticError: an operation is not among those of the module's docstring.
        UnrollError: the model is in training mode.
        ValueError: fewer than two images.

    Cost: one forward pass over `x`.

    Example:
        >>> from resnet_paths.models import cifar_resnet
        >>> from resnet_paths.network import unroll
        >>> from resnet_paths.network.half_precision import half_precision_copy
        >>> net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval())
        >>> steps = plain_operations(half_precision_copy(net), torch.zeros(2, 1, 8, 8, dtype=torch.float64))
        >>> [step.does for step in steps[:6]]
        ['input', 'convolution', 'relu', 'convolution', 'relu', 'convolution']
        >>> [step.settings["block"] for step in steps if step.does == "sum"], steps[-1].shape
        ([0, 1, 2], (10,))
    """
    check_eval(net.model)
    if x.ndim < 2 or len(x) < 2:
        raise ValueError(f"expected at least two images, got {tuple(x.shape)}")
    return _Writer(net, x).write()


class _Writer:
    """Translates the nodes of one graph."""

    def __init__(self, net: UnrolledNetwork, x: torch.Tensor) -> None:
        self.segments, self.values = net.bind(x)
        self.program, self.batch = self.segments.program, len(x)
        self.index_of = {cut.add: index for index, cut in enumerate(self.segments.cuts)}
        self.place: dict[fx.Node, int] = {}
        self.written: list[Operation] = []

    def write(self) -> tuple[Operation, ...]:
        self._check_inputs()
        with torch.no_grad():
            self._follow(self.program, self.segments.flow.carries)
        self._check_output()
        return tuple(self.written)

    def _follow(self, program: Program, carries: set[fx.Node]) -> None:
        """Compute what a program's output needs, and write down what carries values of the image."""
        needed = ancestors(program.output) | {program.output}
        everything = frozenset(program.graph.nodes)
        for node in program.graph.nodes:
            if node.target is operations.same_answer and node in carries:
                raise NoArithmeticError(_refusal(node, "a decision that depends on the values of the image"))
            if node not in needed:
                continue
            if node.op != "placeholder":
                self.values[node] = step_of(node, program, everything)(self.values)
            if node in carries and node not in self.place:
                self._node(node, program)

    def _check_inputs(self) -> None:
        names = list(self.segments.inputs)
        if len(names) != 1:
            raise NoArithmeticError(f"expected a network that reads one image, got inputs {', '.join(names)}")
        (node,) = self.segments.inputs.values()
        self._emit(node, "input")

    def _check_output(self) -> None:
        """Make the logits the last operation, so that a reader knows where to find them."""
        last = self.program.output
        if last not in self.place or len(self._shape(last)) != 1:
            raise NoArithmeticError(f"expected logits (images, classes), got {tuple(self.values[last].shape)}")
        if self.place[last] != len(self.written) - 1:
            self._emit(last, "reshape", last)

    # one node

    def _node(self, node: fx.Node, program: Program) -> None:
        if node.meta.get("autocast") is not None:
            raise NoArithmeticError(_refusal(node, "mixed precision"))
        if node in self.index_of:
            cut = self.segments.cuts[self.index_of[node]]
            self._same_shapes(node, cut.shortcut, *cut.branch)
            self._emit(node, "sum", cut.shortcut, *cut.branch, block=self.index_of[node])
            return
        kind, given = self._read(node, program)
        _WRITERS[kind](self, node, given)

    def _read(self, node: fx.Node, program: Program) -> tuple[str, dict[str, Any]]:
        """A node's operation, and its arguments by name, with values in place of all nodes that carry no data."""
        args, kwargs = self._concrete(node.args), self._concrete(node.kwargs)
        if node.op == "call_module":
            return self._read_module(node, program.model.get_submodule(str(node.target)), args, kwargs)
        target = operations.target_of(node)
        kind, names = ("addition", _TWO) if operations.is_addition(node) else _FUNCTIONS.get(target, ("", ()))
        if not kind or (len(args) > len(names) and kind not in ("reshape", "same")):
            raise NoArithmeticError(_refusal(node, getattr(target, "__name__", str(target))))
        given = dict(zip(names, args, strict=False)) | kwargs
        if "input" in given:
            given["x"] = given.pop("input")
        return kind, given

    def _read_module(self, node: fx.Node, module: nn.Module, args: Any, kwargs: Any) -> tuple[str, dict[str, Any]]:
        if is_hooked(module):
            raise NoArithmeticError(_refusal(node, f"a hook of {type(module).__name__}"))
        kind, names = _LAYERS.get(type(module), ("inside", ()))
        if len(args) != 1 or kwargs or (kind == "inside" and is_leaf(module)):
            raise NoArithmeticError(_refusal(node, type(module).__name__))
        given = {name: getattr(module, name) for name in names}
        return kind, {"x": args[0], "module": module} | given

    def _concrete(self, tree: Any) -> Any:
        """Arguments with values in place of nodes that carry no data."""
        return map_nodes(tree, lambda other: other if other in self.place else self.values[other])

    def inside(self, node: fx.Node, given: dict[str, Any]) -> None:
        """A module without weights, which the graph holds as one operation: what its forward does."""
        module = given["module"]
        try:
            program = trace(module)
        except UnrollError as error:
            raise NoArithmeticError(_refusal(node, type(module).__name__)) from error
        (start,) = list(program.placeholders.values())[:1]
        self.values[start], self.place[start] = self.values[given["x"]], self.place[given["x"]]
        self._follow(program, data_nodes(program))
        if program.output not in self.place:
            raise NoArithmeticError(_refusal(node, type(module).__name__))
        self.place[node] = self.place[program.output]

    # writing down

    def _emit(
        self,
        node: fx.Node,
        does: str,
        *of: fx.Node,
        tensors: Mapping[str, torch.Tensor | None] | None = None,
        **settings: Any,
    ) -> None:
        kept = {name: value for name, value in (tensors or {}).items() if value is not None}
        arrays = {name: value.detach().cpu().double().numpy() for name, value in kept.items()}
        places = tuple(self.place[other] for other in of)
        self.place[node] = len(self.written)
        self.written.append(Operation(does, places, self._shape(node), settings, arrays))

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        value = self.values[node]
        if not isinstance(value, torch.Tensor) or value.ndim < 2 or len(value) != self.batch:
            raise NoArithmeticError(_refusal(node, "a value without one entry for each image"))
        if value.ndim > 4:
            raise NoArithmeticError(_refusal(node, f"a value of {value.ndim} dimensions"))
        return tuple(value.shape[1:])

    def _same_shapes(self, node: fx.Node, *others: fx.Node) -> None:
        if any(self._shape(other) != self._shape(node) for other in others):
            raise NoArithmeticError(_refusal(node, "a sum of values of several shapes"))

    # the operations, from arguments by name

    def same(self, node: fx.Node, given: dict[str, Any]) -> None:
        if self.values[node].dtype != self.values[given["x"]].dtype:
            raise NoArithmeticError(_refusal(node, "a change of dtype"))
        self.place[node] = self.place[given["x"]]

    def dropout(self, node: fx.Node, given: dict[str, Any]) -> None:
        if given.get("training", True):
            raise NoArithmeticError(_refusal(node, "dropout in training mode"))
        self.same(node, given)

    def convolution(self, node: fx.Node, given: dict[str, Any]) -> None:
        weight, dilation = given["weight"], _two(given.get("dilation", 1))
        if given.get("padding_mode", "zeros") != "zeros" or weight.ndim != 4:
            raise NoArithmeticError(
                _refusal(node, "a convolution that is not two-dimensional or pads with other values")
            )
        self._emit(
            node, "convolution", given["x"], stride=_two(given.get("stride", 1)), dilation=dilation,
            padding=_padding(node, given.get("padding", 0), weight.shape[2:], dilation), groups=given.get("groups", 1),
            tensors={"weight": weight, "bias": given.get("bias")},
        )  # fmt: skip

    def linear(self, node: fx.Node, given: dict[str, Any]) -> None:
        if len(self._shape(given["x"])) != 1:
            raise NoArithmeticError(_refusal(node, "a linear layer on positions"))
        self._emit(node, "linear", given["x"], tensors={"weight": given["weight"], "bias": given.get("bias")})

    def norm(self, node: fx.Node, given: dict[str, Any]) -> None:
        mean, variance = given["running_mean"], given["running_var"]
        if mean is None or variance is None or given.get("training"):
            raise NoArithmeticError(_refusal(node, "a norm over the images of a batch"))
        scale, shift = scale_and_shift(
            mean, variance.double(), given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
        )
        self._emit(node, "affine", given["x"], tensors={"scale": scale, "shift": shift})

    def activation(self, node: fx.Node, given: dict[str, Any], does: str, **settings: Any) -> None:
        self._emit(node, does, given["x"], **settings)

    def clip(self, node: fx.Node, given: dict[str, Any]) -> None:
        low, high = given.get("min_val", given.get("min")), given.get("max_val", given.get("max"))
        if not all(isinstance(bound, (int, float)) for bound in (low, high)):
            raise NoArithmeticError(_refusal(node, "a clip without two bounds"))
        self._emit(node, "clip", given["x"], low=low, high=high)

    def gelu(self, node: fx.Node, given: dict[str, Any]) -> None:
        self._emit(node, "gelu_tanh" if given.get("approximate", "none") == "tanh" else "gelu", given["x"])

    def addition(self, node: fx.Node, given: dict[str, Any]) -> None:
        one, other = given["x"], given["other"]
        if given.get("alpha", 1) != 1:
            raise NoArithmeticError(_refusal(node, "a sum with a coefficient"))
        if not isinstance(one, fx.Node):
            one, other = other, one
        if isinstance(other, fx.Node):
            self._same_shapes(node, one, other)
            self._emit(node, "add", one, other)
        else:
            self._affine(node, one, 1.0, other)

    def product(self, node: fx.Node, given: dict[str, Any]) -> None:
        one, other = given["x"], given["other"]
        if not isinstance(one, fx.Node):
            one, other = other, one
        if not isinstance(other, fx.Node):
            self._affine(node, one, other, 0.0)
            return
        if self._shape(one) != self._shape(node):
            one, other = other, one
        shape, small = self._shape(node), self._shape(other)
        if self._shape(one) != shape or small not in (shape, (shape[0], *(1 for _ in shape[1:]))):
            raise NoArithmeticError(_refusal(node, "a product of values of several shapes"))
        self._emit(node, "multiply", one, other)

    def quotient(self, node: fx.Node, given: dict[str, Any]) -> None:
        if isinstance(given["other"], fx.Node) or not isinstance(given["x"], fx.Node) or given.get("rounding_mode"):
            raise NoArithmeticError(_refusal(node, "a division by values of the image"))
        self._affine(node, given["x"], 1 / given["other"], 0.0)

    def difference(self, node: fx.Node, given: dict[str, Any]) -> None:
        one, other = given["x"], given["other"]
        if isinstance(one, fx.Node) and isinstance(other, fx.Node):  # graph.sums has rewritten sums of two data values
            raise NoArithmeticError(_refusal(node, "a difference of values"))
        if isinstance(one, fx.Node):
            self._affine(node, one, 1.0, -other)
        else:
            self._affine(node, other, -1.0, one)

    def negation(self, node: fx.Node, given: dict[str, Any]) -> None:
        self._affine(node, given["x"], -1.0, 0.0)

    def _affine(self, node: fx.Node, x: fx.Node, factor: Any, shift: Any) -> None:
        """``factor * x + shift``, by numbers or by tensors with one entry for each channel."""
        if not any(isinstance(value, torch.Tensor) and value.numel() > 1 for value in (factor, shift)):
            self._emit(node, "scale", x, factor=float(factor), shift=float(shift))
            return
        shape = self.values[x].shape
        scale, offset = (_by_channel(node, value, shape) for value in (factor, shift))
        self._emit(node, "affine", x, tensors={"scale": scale, "shift": offset})

    def mean(self, node: fx.Node, given: dict[str, Any]) -> None:
        x, over = given["x"], given.get("dim", ())
        over = over if isinstance(over, (tuple, list)) else (over,)
        if len(self._shape(x)) != 3 or {axis % 4 for axis in over if axis is not None} != {2, 3}:
            raise NoArithmeticError(_refusal(node, "a mean over axes other than all pixels"))
        self._emit(node, "mean", x)

    def adaptive_pool(self, node: fx.Node, given: dict[str, Any]) -> None:
        one_pixel = self._shape(node)[1:] == (1, 1)
        self._emit(node, "mean" if one_pixel else "adaptive_pool", given["x"])

    def average_pool(self, node: fx.Node, given: dict[str, Any]) -> None:
        if given.get("divisor_override"):
            raise NoArithmeticError(_refusal(node, "pooling with divisor_override"))
        counts = given.get("count_include_pad", True)
        self._emit(node, "average_pool", given["x"], **_window(given), count_padding=bool(counts))

    def max_pool(self, node: fx.Node, given: dict[str, Any]) -> None:
        if given.get("return_indices"):
            raise NoArithmeticError(_refusal(node, "pooling that returns indices"))
        self._emit(node, "max_pool", given["x"], **_window(given), dilation=_two(given.get("dilation", 1)))

    def reshape(self, node: fx.Node, given: dict[str, Any]) -> None:
        x = given["x"]
        if self.values[node].numel() != self.values[x].numel():
            raise NoArithmeticError(_refusal(node, "a reshaping that repeats values"))
        self._emit(node, "reshape", x)

    def cut_out(self, node: fx.Node, given: dict[str, Any]) -> None:
        index = given["index"] if isinstance(given["index"], tuple) else (given["index"],)
        full = self.values[given["x"]].shape
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index = (*index[:at], *[slice(None)] * (len(full) - len(index) + 1), *index[at + 1 :])
        if not all(isinstance(part, slice) for part in index) or len(index) > len(full):
            raise NoArithmeticError(_refusal(node, "a selection by anything but slices"))
        parts = [*index, *[slice(None)] * (len(full) - len(index))]
        ranges = [part.indices(size) for part, size in zip(parts, full, strict=True)]
        if ranges[0] != (0, full[0], 1) or any(step < 1 for _, _, step in ranges):
            raise NoArithmeticError(_refusal(node, "a selection among the images"))
        starts, steps = [first for first, _, _ in ranges[1:]], [step for _, _, step in ranges[1:]]
        self._emit(node, "slice", given["x"], starts=starts, steps=steps)

    def pad(self, node: fx.Node, given: dict[str, Any]) -> None:
        amounts, axes = list(given["pad"]), len(self._shape(given["x"]))
        zeros = given.get("mode", "constant") == "constant" and not given.get("value")
        if not zeros or len(amounts) > 2 * axes or any(not isinstance(a, int) or a < 0 for a in amounts):
            raise NoArithmeticError(_refusal(node, "padding with anything but zeros around each image"))
        before = [0] * (axes - len(amounts) // 2) + amounts[-2::-2]
        self._emit(node, "pad", given["x"], before=before)


def _refusal(node: fx.Node, what: str) -> str:
    where = call_of(node).path if "call" in node.meta else ""
    return f"{what} in {where or 'the model'}" if what else str(node)


def _two(value: Any) -> list[int]:
    """One number for both axes, or two."""
    numbers = list(value) if isinstance(value, (tuple, list)) else [value]
    return [int(number) for number in (numbers * 2 if len(numbers) == 1 else numbers)]


def _padding(node: fx.Node, given: Any, kernel: Any, dilation: list[int]) -> list[int]:
    if given == "valid":
        return [0, 0]
    if given != "same":
        return _two(given)
    total = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    if any(amount % 2 for amount in total):
        raise NoArithmeticError(_refusal(node, "padding of unequal sides"))
    return [amount // 2 for amount in total]


def _window(given: dict[str, Any]) -> dict[str, Any]:
    """Kernel, stride and padding of a pooling; its output's shape says whether the last window may stick out."""
    kernel = _two(given["kernel_size"])
    stride = given.get("stride")
    return {
        "kernel": kernel,
        "stride": kernel if stride in (None, [], ()) else _two(stride),
        "padding": _two(given.get("padding", 0)),
    }


def _by_channel(node: fx.Node, value: Any, shape: torch.Size) -> torch.Tensor:
    """A constant as one number for each channel of values of this shape."""
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(float(value), dtype=torch.float64, device="cpu")
    full = tensor.reshape((1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape))
    if full.ndim != len(shape) or any(size != 1 for axis, size in enumerate(full.shape) if axis != 1):
        raise NoArithmeticError(_refusal(node, "a constant that differs between pixels or images"))
    return full.flatten().expand(shape[1])


def _activation(does: str, **settings: Any) -> Callable[[_Writer, fx.Node, dict[str, Any]], None]:
    """A writer of one activation: where a setting is the name of an argument and its default, as given."""

    def write(self: _Writer, node: fx.Node, given: dict[str, Any]) -> None:
        numbers = {name: float(given.get(argument, default)) for name, (argument, default) in settings.items()}
        self.activation(node, given, does, **numbers)

    return write


_WRITERS: dict[str, Callable[[_Writer, fx.Node, dict[str, Any]], None]] = {
    name: getattr(_Writer, name)
    for name in (
        "inside", "same", "dropout", "convolution", "linear", "norm", "clip", "gelu", "addition", "product", "quotient",
        "difference", "negation", "mean", "adaptive_pool", "average_pool", "max_pool", "reshape", "cut_out", "pad",
    )
} | {
    "relu": _activation("relu"),
    "relu6": lambda self, node, given: self.activation(node, given, "clip", low=0, high=6),
    "leaky_relu": _activation("leaky_relu", slope=("negative_slope", 0.01)),
    "elu": _activation("elu", slope=("alpha", 1.0)),
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "silu": _activation("silu"),
    "hardsigmoid": _activation("hardsigmoid"),
    "hardswish": _activation("hardswish"),
}  # fmt: skip

_CONVOLUTION = ("weight", "bias", "stride", "padding", "dilation", "groups")
_NORM = ("running_mean", "running_var", "weight", "bias", "eps")
_LAYERS: dict[type, tuple[str, tuple[str, ...]]] = {
    nn.Conv2d: ("convolution", (*_CONVOLUTION, "padding_mode")),
    nn.Linear: ("linear", ("weight", "bias")),
    nn.BatchNorm1d: ("norm", _NORM), nn.BatchNorm2d: ("norm", _NORM),
    nn.MaxPool2d: ("max_pool", ("kernel_size", "stride", "padding", "dilation", "return_indices")),
    nn.AvgPool2d: ("average_pool", ("kernel_size", "stride", "padding", "count_include_pad", "divisor_override")),
    nn.AdaptiveAvgPool2d: ("adaptive_pool", ()),
    nn.Flatten: ("reshape", ()), nn.Unflatten: ("reshape", ()),
    nn.Identity: ("same", ()), nn.Dropout: ("same", ()), nn.Dropout1d: ("same", ()), nn.Dropout2d: ("same", ()),
    nn.ReLU: ("relu", ()), nn.ReLU6: ("relu6", ()), nn.Hardtanh: ("clip", ("min_val", "max_val")),
    nn.LeakyReLU: ("leaky_relu", ("negative_slope",)), nn.ELU: ("elu", ("alpha",)), nn.Sigmoid: ("sigmoid", ()),
    nn.Tanh: ("tanh", ()), nn.SiLU: ("silu", ()), nn.GELU: ("gelu", ("approximate",)),
    nn.Hardsigmoid: ("hardsigmoid", ()), nn.Hardswish: ("hardswish", ()),
}  # fmt: skip

_X, _TWO = ("x",), ("x", "other")
_SPELLINGS: dict[tuple[str, tuple[str, ...]], tuple[Any, ...]] = {
    ("convolution", ("x", *_CONVOLUTION)): (F.conv2d, torch.conv2d, operations.aten.conv2d),
    ("linear", ("x", "weight", "bias")): (F.linear, operations.aten.linear),
    ("norm", ("x", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")): (F.batch_norm,),
    ("relu", _X): (F.relu, torch.relu, torch.relu_, torch.Tensor.relu, "relu", "relu_", operations.aten.relu),
    ("relu6", _X): (F.relu6,),
    ("leaky_relu", ("x", "negative_slope")): (F.leaky_relu,),
    ("elu", ("x", "alpha")): (F.elu,),
    ("sigmoid", _X): (torch.sigmoid, F.sigmoid, torch.Tensor.sigmoid, "sigmoid"),
    ("tanh", _X): (torch.tanh, F.tanh, torch.Tensor.tanh, "tanh"),
    ("silu", _X): (F.silu,),
    ("hardsigmoid", _X): (F.hardsigmoid,),
    ("hardswish", _X): (F.hardswish,),
    ("gelu", ("x", "approximate")): (F.gelu,),
    ("clip", ("x", "min", "max")): (torch.clamp, torch.clip, torch.Tensor.clamp, "clamp", "clip"),
    ("clip", ("x", "min_val", "max_val")): (F.hardtanh,),
    ("product", _TWO): (operator.mul, operator.imul, torch.mul, torch.multiply, torch.Tensor.mul, "mul", "mul_"),
    ("quotient", _TWO): (operator.truediv, torch.div, torch.Tensor.div, "div", "div_"),
    ("difference", _TWO): (operator.sub, torch.sub, torch.Tensor.sub, "sub"),
    ("negation", _X): (operator.neg, torch.neg, torch.Tensor.neg, "neg"),
    ("mean", ("x", "dim", "keepdim")): (torch.mean, torch.Tensor.mean, "mean"),
    ("adaptive_pool", ("x", "output_size")): (F.adaptive_avg_pool2d,),
    ("average_pool", (
        "x", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
    )): (F.avg_pool2d,),
    ("max_pool", ("x", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")): (
        F.max_pool2d, torch.max_pool2d,
    ),
    ("reshape", ("x", "size")): (
        torch.flatten, torch.Tensor.flatten, torch.reshape, torch.Tensor.reshape, torch.Tensor.view, torch.squeeze,
        torch.Tensor.squeeze, torch.unsqueeze, torch.Tensor.unsqueeze, "flatten", "reshape", "view", "squeeze",
        "unsqueeze",
    ),
    ("dropout", ("x", "p", "training")): (F.dropout, F.dropout2d),
    ("same", ("x", "to")): (
        torch.clone, torch.Tensor.clone, torch.Tensor.contiguous, torch.Tensor.detach, torch.Tensor.to,
        torch.Tensor.float, "clone", "contiguous", "detach", "to", "float",
    ),
    ("cut_out", ("x", "index")): (operator.getitem, torch.Tensor.__getitem__),
    ("pad", ("x", "pad", "mode", "value")): (F.pad,),
}  # fmt: skip
_FUNCTIONS: dict[Any, tuple[str, tuple[str, ...]]] = {
    target: (kind, names) for (kind, names), targets in _SPELLINGS.items() for target in targets
}
