"""The form of a model's input, as JSON: enough to create an input of that form, without any of the data themselves.

A smaller network that can only be recorded on an example has to be rebuilt where the data are not at hand. Only images
with one class each have a mean, a standard deviation and a size; every input has a form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..graph.inputs import is_batched
from ..graph.trees import DICTS

Form = dict[str, Any]


def form_of(x: Any, batch: int) -> Form:
    """The form of an input.

    Args:
        x: a tensor, a tuple of positional or a dict of keyword arguments, with anything in them that JSON can hold.
        batch: the number of examples; tensors of another length are the same for all examples.

    Raises:
        TypeError: something in it is neither a tensor nor a JSON value.

    Example:
        >>> form_of((torch.zeros(2, 3), True), 2)["items"][0]
        {'kind': 'tensor', 'shape': [3], 'dtype': 'float32', 'fill': 0, 'batched': True}
    """
    if isinstance(x, torch.Tensor):
        batched = is_batched(x, batch)
        fill = 0 if x.is_floating_point() or x.is_complex() or not x.numel() else int(x.max())  # an index that exists
        dtype = str(x.dtype).removeprefix("torch.")
        return {"kind": "tensor", "shape": list(x.shape[batched:]), "dtype": dtype, "fill": fill, "batched": batched}
    if isinstance(x, DICTS):
        return {"kind": "dict", "items": {str(name): form_of(item, batch) for name, item in x.items()}}
    if isinstance(x, tuple | list):
        return {"kind": type(x).__name__, "items": [form_of(item, batch) for item in x]}
    if x is None or isinstance(x, bool | int | float | str):
        return {"kind": "value", "value": x}
    raise TypeError(
        f"expected inputs of tensors, numbers and strings, got {type(x).__name__}; build it in the model's forward()"
    )


def example_of(form: Form, batch: int = 2) -> Any:
    """An input of a form: floats are 0, integers the largest value of the input that the form was taken from.

    Raises:
        ValueError: it is not a form.

    Example:
        >>> example_of(form_of({"ids": torch.tensor([[3, 5], [0, 0]])}, 2), batch=3)["ids"].tolist()
        [[5, 5], [5, 5], [5, 5]]
    """

    def made(leaf: Form) -> torch.Tensor:
        shape = [batch, *leaf["shape"]] if leaf["batched"] else leaf["shape"]
        return torch.full(shape, leaf["fill"], dtype=getattr(torch, leaf["dtype"]), device="cpu")

    return _mapped(form, made, dict, lambda kind, parts: tuple(parts) if kind == "tuple" else parts)


def code_of(form: Form, batch: int = 2) -> str:
    """The Python expression of :func:`example_of`.

    Example:
        >>> code_of(form_of({"ids": torch.tensor([[3, 5], [0, 0]]), "scale": 0.5}, 2))
        "{'ids': torch.full((2, 2), 5), 'scale': 0.5}"
    """

    def made(leaf: Form) -> str:
        shape = tuple([batch, *leaf["shape"]] if leaf["batched"] else leaf["shape"])
        kind, fill = leaf["dtype"], leaf["fill"]
        if kind == "float32":
            return f"torch.zeros({', '.join(map(str, shape)) or '()'})"
        value = bool(fill) if kind == "bool" else fill
        return f"torch.full({shape}, {value}{'' if kind in ('int64', 'bool') else f', dtype=torch.{kind}'})"

    def joined(kind: str, parts: list[str]) -> str:
        inside = ", ".join(parts)
        return f"[{inside}]" if kind == "list" else f"({inside}{',' * (len(parts) == 1)})"

    def of_dict(items: dict[str, str]) -> str:
        return f"{{{', '.join(f'{name!r}: {text}' for name, text in items.items())}}}"

    text: str = _mapped(form, made, of_dict, joined, repr)
    return text


def _mapped(
    form: Form,
    tensor: Callable[[Form], Any],
    of_dict: Callable[[dict[str, Any]], Any],
    of_list: Callable[[str, list[Any]], Any],
    value: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """Something made from each tensor of a form, put together as the form says."""
    try:
        kind = form["kind"]
        if kind == "tensor":
            return tensor(form)
        if kind == "value":
            return value(form["value"])
        if kind == "dict":
            inner = form["items"].items()
            return of_dict({name: _mapped(item, tensor, of_dict, of_list, value) for name, item in inner})
        return of_list(kind, [_mapped(item, tensor, of_dict, of_list, value) for item in form["items"]])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"expected the form of an input, as resnet-paths writes it, got {form!r}: {error}") from error
