"""The description of a residual block, and the ways to refer to blocks."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..graph.errors import BlockIndexError
from ..nouns import counted

BlockRef = int | str


@dataclass(frozen=True)
class Block:
    """One residual block, ``post(shortcut(x) + branch(x))``.

    Attributes:
        index: position from the input, from 0.
        name: qualified name of its module, or of the child that holds the branch if one module has several blocks
            (``encoder_layer_0.mlp``).
        owner: qualified name of the module whose forward makes the addition (``""``: the model itself).
        shortcut: ``"identity"``, ``"projection"`` (it has weights), ``"pooling"`` or ``"parameter-free"``.
        post: the operation after the addition (``"relu"``), or ``""``.
        branch_parameters: number of parameters that only the branch uses.
        entry_shape: shape of the value that enters, without the batch; None before an input was seen.
        droppable: whether ``drop_blocks`` can remove the branch.
        reason: why it cannot; empty if it can.
    """

    index: int
    name: str
    owner: str
    shortcut: str
    post: str
    branch_parameters: int
    entry_shape: tuple[int, ...] | None = None
    droppable: bool = True
    reason: str = ""


def resolve(blocks: Sequence[Block], reference: BlockRef) -> int:
    """The index of a block given by index (negative from the end) or by name.

    Raises:
        BlockIndexError: there is no such block.
        TypeError: the reference is neither a number nor a name.
    """
    if isinstance(reference, str):
        for block in blocks:
            if block.name == reference:
                return block.index
        inside = [block.name for block in blocks if block.name.startswith(reference) or reference in block.name]
        shown = inside or [block.name for block in blocks]
        raise BlockIndexError(f"expected the name of a block, got {reference!r}; {_listed(shown)}")
    try:
        index = operator.index(reference)
    except TypeError:
        kind = type(reference).__name__
        raise TypeError(f"expected a block's index or name, got {reference!r} of type {kind}") from None
    if isinstance(reference, bool) or not -len(blocks) <= index < len(blocks):
        raise BlockIndexError(
            f"expected a block index from {-len(blocks)} to {len(blocks) - 1}, got {reference}; "
            f"the network has {counted(len(blocks), 'block')}"
        )
    return index % len(blocks)


def resolve_all(blocks: Sequence[Block], references: Iterable[BlockRef] | BlockRef) -> list[int]:
    """The indices of several blocks, in the order given.

    The name of a module that is called several times stands for all its calls (``tower.0`` for ``tower.0#1`` and
    ``tower.0#2``).

    Raises:
        BlockIndexError: a block does not exist, or is named twice.
    """
    if isinstance(references, str) or not isinstance(references, Iterable):
        references = [references]
    indices: list[int] = []
    calls = [reference for given in references for reference in _calls(blocks, given)]
    for reference in calls:
        index = resolve(blocks, reference)
        if index in indices:
            raise BlockIndexError(
                f"expected each block once, got {reference!r} for block {index} ({blocks[index].name}), which "
                "is already in the list; remove one of the two"
            )
        indices.append(index)
    return indices


def _calls(blocks: Sequence[Block], reference: BlockRef) -> list[BlockRef]:
    """The reference itself, or the names of all calls if it names a module that is called several times."""
    if not isinstance(reference, str) or any(block.name == reference for block in blocks):
        return [reference]
    return [block.name for block in blocks if block.name.rpartition("#")[:2] == (reference, "#")] or [reference]


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "choose one of " + ", ".join(names[:most]) + more
