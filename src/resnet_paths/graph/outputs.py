"""Which tensors a model returns, and the one that an analysis follows.

A model may return several tensors: feature maps of a pyramid, logits and auxiliary logits, a record with a hidden
state. Blocks that any of them depends on are found; an evaluation returns one, the main output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from .errors import UnrollError

Path = tuple[int | str, ...]
"""Where a tensor is in what a model returns: ``()`` for the tensor itself, ``("out",)``, ``(0, "boxes")``."""


def tensor_outputs(tree: Any) -> list[tuple[Path, fx.Node]]:
    """The nodes in what a program returns, with their paths, in order."""
    return list(_walk(tree, ()))


def _walk(tree: Any, path: Path) -> Iterator[tuple[Path, fx.Node]]:
    if isinstance(tree, fx.Node):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _walk(item, (*path, key))
    elif isinstance(tree, (tuple, list)):
        for position, item in enumerate(tree):
            yield from _walk(item, (*path, position))


def output_at(output: Any, path: Path) -> torch.Tensor:
    """The tensor at a path in what a model returned.

    Raises:
        UnrollError: there is no tensor there.

    Example:
        >>> output_at({"out": torch.ones(2), "aux": torch.zeros(1)}, ("out",))
        tensor([1., 1.])
    """
    value = output
    for key in path:
        value = _item(value, key)
    if not isinstance(value, torch.Tensor):
        raise UnrollError(
            f"expected a tensor at {list(path)} of the model's output, as when it was unrolled, got "
            f"{type(value).__name__}; unroll the model again"
        )
    return value


def _item(value: Any, key: int | str) -> Any:
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        return getattr(value, key, None) if isinstance(key, str) else None
