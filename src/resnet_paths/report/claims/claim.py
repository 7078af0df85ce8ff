"""A claim of a paper, and how it is measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .evidence import Evidence
from .rules import word


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        text: in words, with the numbers.
        holds: whether the claim holds here, or the check agrees; None where this size cannot tell.
        numbers: the numbers by name.
    """

    text: str
    holds: bool | None
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One statement of a paper.

    A **claim** is of how networks behave: measured here, and it can turn out either way. A **check** follows from
    definitions: that it agrees says that this library computes what the paper writes, and nothing of networks.

    Attributes:
        name: by which it is asked for.
        where: section, figure or table of the paper.
        statement: what the paper says, in our words.
        expected: what must be seen here for it to hold.
        measure: from the evidence to what is found.
        kind: ``claim`` or ``check``.
    """

    name: str
    where: str
    statement: str
    expected: str
    measure: Callable[[Evidence], Measured]
    kind: Literal["claim", "check"] = "claim"

    def verdict(self, measured: Measured) -> str:
        """``holds`` or ``does not hold``, of a check ``agrees`` or ``disagrees``; or ``inconclusive``."""
        if self.kind == "claim" or measured.holds is None:
            return word(measured.holds)
        return "agrees" if measured.holds else "disagrees"


@dataclass(frozen=True)
class Paper:
    """A paper and those of its statements that are measured.

    Attributes:
        name: by which it is asked for.
        citation: authors, title, year.
        claims: in the order of the paper.
    """

    name: str
    citation: str
    claims: tuple[Claim, ...]
