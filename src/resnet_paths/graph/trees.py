"""Nests of values: what modules and functions take and return.

This is the one mapper for values. We tried ``torch.utils._pytree`` in its place. It treats every unregistered subclass
of dict or list, and every slice, as a leaf: nodes inside a model's bookkeeping dict, or inside ``x[:, a:b]``, would be
lost. And it rebuilds a nest in its original class: an fx ``immutable_list`` would reach functions that modify their
lists. Nodes inside the arguments of a graph are mapped by fx's own ``map_arg``.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

DICTS = (dict, UserDict)
"""Dicts: Hugging Face's tokenizers and image processors return the second kind. Other mappings are values."""


def map_leaves(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A nest with every leaf changed; dicts and lists of any class become plain ones, named tuples keep their class.

    Example:
        >>> map_leaves({"a": [1, (2, slice(0, 3))]}, lambda leaf: leaf and leaf + 1)
        {'a': [2, (3, slice(0, 4, None))]}
    """
    if isinstance(tree, tuple):
        if hasattr(tree, "_fields"):
            return type(tree)(*(map_leaves(item, change) for item in tree))
        return tuple(map_leaves(item, change) for item in tree)
    if isinstance(tree, list):
        return [map_leaves(item, change) for item in tree]
    if isinstance(tree, DICTS):
        return {key: map_leaves(item, change) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*(map_leaves(part, change) for part in (tree.start, tree.stop, tree.step)))
    return change(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a nest, in order.

    Yields:
        A leaf.

    Example:
        >>> list(leaves({"a": [1, (2, slice(0, 3))]}))
        [1, 2, 0, 3, None]
    """
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves(item)
    elif isinstance(tree, DICTS):
        for item in tree.values():
            yield from leaves(item)
    elif isinstance(tree, slice):
        yield from (tree.start, tree.stop, tree.step)
    else:
        yield tree


def fields_of(value: Any) -> Any:
    """The fields of a dataclass by name, as a dict; any other value as it is.

    Example:
        >>> fields_of(3)
        3
    """
    if not is_dataclass(value) or isinstance(value, (type, dict)):
        return value
    return {field.name: getattr(value, field.name) for field in fields(value) if field.init}


def items(tree: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a dict, list or tuple with their keys or positions; nothing for any other value."""
    if isinstance(tree, DICTS):
        yield from tree.items()
    elif isinstance(tree, (tuple, list)):
        yield from enumerate(tree)
