"""A residual unit, and the ways to name units."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..graph.errors import UnitIndexError

UnitRef = int | str


@dataclass(frozen=True)
class Unit:
    """One residual unit, ``post(shortcut(x) + branch(x))``.

    Attributes:
        index: position from the input, from 0.
        name: qualified name of its module; with the part that holds the branch where one module holds
            several units (``encoder_layer_0.mlp``).
        owner: qualified name of the module whose forward makes the addition (``""``: the model itself).
        shortcut: ``"identity"``, ``"projection"`` (it has weights), ``"pooling"`` or ``"parameter-free"``.
        post: the operation after the addition (``"relu"``), or ``""``.
        branch_parameters: number of parameters that only the branch uses.
        entry_shape: shape of the value that enters, without the batch; None before an input was seen.
        droppable: whether ``drop_blocks`` can take the branch out.
        reason: why not, where it cannot.
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


def resolve(units: Sequence[Unit], reference: UnitRef) -> int:
    """The index of a unit given by index (negative from the end) or by name.

    Raises:
        UnitIndexError: there is no such unit.
    """
    if isinstance(reference, str):
        for unit in units:
            if unit.name == reference:
                return unit.index
        inside = [unit.name for unit in units if unit.name.startswith(reference) or reference in unit.name]
        shown = inside or [unit.name for unit in units]
        raise UnitIndexError(f"expected the name of a unit, got {reference!r}; {_listed(shown)}")
    try:
        index = operator.index(reference)
    except TypeError:
        kind = type(reference).__name__
        raise TypeError(f"expected a unit's index or name, got {reference!r} of type {kind}") from None
    if isinstance(reference, bool) or not -len(units) <= index < len(units):
        raise UnitIndexError(
            f"expected a unit index from {-len(units)} to {len(units) - 1}, got {reference}; "
            f"the network has {len(units)} units"
        )
    return index % len(units)


def resolve_all(units: Sequence[Unit], references: Iterable[UnitRef] | UnitRef) -> list[int]:
    """The indices of several units, in the order given.

    The name of a module that is called several times stands for all its calls (``tower.0`` for ``tower.0#1`` and
    ``tower.0#2``).

    Raises:
        UnitIndexError: a unit does not exist, or is named twice.
    """
    if isinstance(references, str) or not isinstance(references, Iterable):
        references = [references]
    indices: list[int] = []
    calls = [reference for given in references for reference in _calls(units, given)]
    for reference in calls:
        index = resolve(units, reference)
        if index in indices:
            raise UnitIndexError(
                f"expected each unit once, got {reference!r} for unit {index} ({units[index].name}), which "
                "is already in the list; remove one of the two"
            )
        indices.append(index)
    return indices


def _calls(units: Sequence[Unit], reference: UnitRef) -> list[UnitRef]:
    """A reference, or the names of all calls of the module that it names."""
    if not isinstance(reference, str) or any(unit.name == reference for unit in units):
        return [reference]
    return [unit.name for unit in units if unit.name.rpartition("#")[:2] == (reference, "#")] or [reference]


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "choose one of " + ", ".join(names[:most]) + more
