"""A model's inputs and outputs: one tensor or several, bound to the nodes of a graph and checked against the example.

In one place, because tracing, running, verifying and exporting must agree on what the arguments of a call are, and on
which tensor of a nested output is the network's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import fx, nn

from .compile_node import Values
from .errors import UnrollError
from .trees import DICTS, items, leaves, map_leaves


def is_batched(leaf: Any, count: int) -> TypeGuard[torch.Tensor]:
    """Whether a leaf of an input of this many examples holds one row for each; others are the same for all of them.

    Example:
        >>> is_batched(torch.zeros(4, 2), 4), is_batched(torch.zeros(9), 4), is_batched(4, 4)
        (True, False, False)
    """
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and len(leaf) == count


def examples_in(x: Any) -> int:
    """The number of examples in an input: the length of its first tensor.

    Raises:
        TypeError: it contains no tensor.

    Example:
        >>> examples_in({"scale": 2.0, "ids": torch.zeros(3, 5)})
        3
    """
    tensor = next((leaf for leaf in leaves(x) if isinstance(leaf, torch.Tensor) and leaf.ndim), None)
    if tensor is None:
        raise TypeError(f"expected an input that contains a tensor, examples first, got {type(x).__name__}")
    return len(tensor)


def first(x: Any, count: int, length: int) -> Any:
    """The first examples of an input of this length; tensors of another length are the same for all examples.

    Example:
        >>> {name: len(part) for name, part in first({"x": torch.zeros(4, 2), "table": torch.zeros(9)}, 3, 4).items()}
        {'x': 3, 'table': 9}
    """
    return map_leaves(x, lambda leaf: leaf[:count] if is_batched(leaf, length) else leaf)


def placed(x: Any, model: nn.Module) -> Any:
    """An input on the device of a model's first floating parameter, floating-point tensors in its dtype."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or parameter is None:
            return leaf
        return leaf.to(parameter.device, parameter.dtype if leaf.is_floating_point() else None)

    return map_leaves(x, moved)


def call_model(model: Callable[..., Any], x: Any) -> Any:
    """Call a model on a tensor, a tuple of arguments or a mapping of keyword arguments (a list is one argument)."""
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple) else model(x)


def main_output(output: Any) -> torch.Tensor:
    """The tensor of a model's output that the network returns: the logits, or else the first tensor."""
    if isinstance(output, torch.Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    parts = output.values() if hasattr(output, "values") else output
    if isinstance(parts, (tuple, list)) or hasattr(parts, "__iter__"):
        for item in parts:
            if item is not None:
                return main_output(item)
    raise UnrollError(f"expected a tensor in the model's output, got {type(output).__name__}")


def relative_difference(values: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two tensors relative to the largest finite entry of the second; NaN equals NaN."""
    differs = ~((values == expected) | (values.isnan() & expected.isnan()))
    if not bool(differs.any()):
        return 0.0
    finite = expected[expected.isfinite()]
    scale = finite.abs().max() if finite.numel() else expected.new_zeros(())
    difference = (values[differs] - expected[differs]).abs().max()
    return float(difference / scale.clamp_min(torch.finfo(torch.float32).tiny))


def named_tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an argument by name: ``x``, or ``images.0`` and ``images.1`` in a list.

    Yields:
        A name and its tensor.

    Example:
        >>> [name for name, _ in named_tensors([torch.ones(1), {"mask": torch.ones(1)}], "images")]
        ['images.0', 'images.1.mask']
    """
    if isinstance(value, torch.Tensor):
        yield name, value
    for key, item in items(value):
        yield from named_tensors(item, f"{name}.{key}")


def bind(inputs: dict[str, fx.Node], x: Any) -> Values:
    """Assign an input, given as tensor, tuple, list or dict, to the input nodes of a program.

    A tuple holds positional arguments, a dict keyword arguments; a list is one argument.

    Raises:
        UnrollError: an input is missing, or there are too many.
    """
    heads = list(dict.fromkeys(name.split(".")[0] for name in inputs))
    given = x if isinstance(x, DICTS) else dict(zip(heads, x if isinstance(x, tuple) else (x,), strict=False))
    missing = [head for head in heads if head not in given]
    if missing or (isinstance(x, tuple) and len(x) > len(heads)):
        got = f"{len(x)} of them" if isinstance(x, tuple) else f"{sorted(given)}"
        raise UnrollError(f"expected the inputs {heads}, got {got} (tensor, tuple or dict)")
    tensors = {head: dict(named_tensors(given[head], head)) for head in heads}
    for name in inputs:
        if "." in name:
            _check_list(name.split(".")[0], inputs, tensors)
    return {node: tensors[name.split(".")[0]].get(name, given.get(name)) for name, node in inputs.items()}


def _check_list(head: str, inputs: dict[str, fx.Node], tensors: dict[str, dict[str, torch.Tensor]]) -> None:
    """A list was followed item by item, so the program is valid only for the number of items in the example."""
    expected = [name for name in inputs if name.startswith(f"{head}.")]
    if len(tensors[head]) != len(expected) or not set(expected) <= set(tensors[head]):
        raise UnrollError(
            f"expected {len(expected)} tensors in {head}, as in the example, got {len(tensors[head])}; unroll the "
            "model with an example of this length"
        )


def named(model: nn.Module, inputs: Collection[str], x: Any) -> Any:
    """Turn a tuple with more items than the program has inputs into a dict by the names of the model's arguments."""
    parameters = list(inspect.signature(model.forward).parameters)
    if not isinstance(x, tuple) or not len(inputs) < len(x) <= len(parameters) or not set(inputs) <= set(parameters):
        return x
    return dict(zip(parameters, x, strict=False))


def check_constants(model: nn.Module, inputs: Collection[str], x: Any, example: Any) -> None:
    """Check that arguments which are not inputs of a program have the values for which it is valid.

    Args:
        model: the model.
        inputs: the names of the program's inputs.
        x: the input.
        example: the input on which the program was recorded, or compared with the model; tensors in it that the
            program does not read have been shown not to matter.

    Raises:
        UnrollError: an argument has another value than in the example or, where that lacks it, than its default; or it
            has no default and is no tensor.
    """
    if not isinstance(x, DICTS):
        return
    parameters = inspect.signature(model.forward).parameters
    in_example = dict(zip(parameters, example, strict=False)) if isinstance(example, tuple) else example
    in_example = in_example if isinstance(in_example, DICTS) else {}
    for name, value in x.items():
        if name in inputs or name not in parameters:
            continue
        expected = in_example.get(name, parameters[name].default)
        if value is expected or isinstance(expected, torch.Tensor):
            continue
        if expected is inspect.Parameter.empty:  # the forward asks for it and does not read it
            if isinstance(value, torch.Tensor):
                continue
            raise UnrollError(
                f"expected a tensor as {name}, as when the model was traced, got {type(value).__name__}; unroll the "
                f"model again with an example_input that holds this {name}"
            )
        if isinstance(value, torch.Tensor) or value != expected:
            raise UnrollError(
                f"expected {name}={expected!r}, as when the model was unrolled, got another value; unroll the model "
                f"again with an example_input that holds this {name}"
            )


def arguments_by_name(model: nn.Module, x: Any) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """The positional and keyword arguments of a call on an input, and all of them by name.

    Positional arguments of a forward of ``*args`` are called ``args_0``, ``args_1``.

    Raises:
        TypeError: the model's forward does not take them.
    """
    args = () if isinstance(x, DICTS) else x if isinstance(x, tuple) else (x,)
    kwargs = x if isinstance(x, DICTS) else {}
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    by_name: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            by_name |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            by_name |= {f"{name}_{position}": item for position, item in enumerate(value)}
        else:
            by_name[name] = value
    return bound.args, bound.kwargs, by_name
